// What users get: packs the tarball from dist, looks into it, installs it next to Fastify in an empty folder, and
// registers the plugin in every way that there is.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'fastify-fargate-'))

// npm's own settings (a dry run, a prefix) must not reach the npm and the processes that are started here.
const env = Object.fromEntries(Object.entries(process.env).filter(([key]) =>
  !/^npm_(package|lifecycle|command|config_(dry_run|prefix|global|local_prefix|workspace))/i.test(key) && key !== 'NODE_OPTIONS'))

function run (cwd, file, ...args) {
  try {
    return execFileSync(file, args, { cwd, env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
  } catch (error) {
    console.log(error.stdout)
    throw error
  }
}

const npm = (cwd, ...args) => run(cwd, 'npm', '--loglevel=error', ...args)

const shapes = {
  'esm-default.mjs': ['import plugin from "fastify-fargate"', 'plugin'],
  'esm-named.mjs': ['import { fastifyFargate } from "fastify-fargate"', 'fastifyFargate'],
  'esm-promise.mjs': ['', 'import("fastify-fargate")'],
  'cjs.cjs': ['', 'require("fastify-fargate")'],
  'cjs-default.cjs': ['', 'require("fastify-fargate").default'],
  'cjs-named.cjs': ['', 'require("fastify-fargate").fastifyFargate']
}

const service = (file, [head, plugin]) => `
${file.endsWith('.mjs') ? 'import Fastify from "fastify"' : 'const Fastify = require("fastify")'}
${head}
async function main () {
  const app = Fastify()
  app.register(${plugin})
  await app.ready()
  console.log(app.shutdown.state)
  await app.close()
}
main()
`

function packages () {
  const lock = JSON.parse(readFileSync(join(folder, 'node_modules/.package-lock.json'), 'utf8'))
  return Object.entries(lock.packages).map(([path, { version }]) => `${path.replace(/^.*node_modules\//, '')}@${version}`)
}

try {
  const [{ filename, files, unpackedSize }] = JSON.parse(npm(root, 'pack', '--json', '--pack-destination', folder))
  const tarball = join(folder, filename)

  // Only what is meant to ship, and nothing that tells about the machine it was built on.
  for (const { path } of files) {
    assert.match(path, /^(package\.json|README\.md|CHANGELOG\.md|LICENSE|dist\/.*\.(js|d\.ts)|dist\/\w+\/package\.json)$/, `${path} is in the tarball`)
    assert.doesNotMatch(path, /test|fixture|\.tst\./, `${path} is in the tarball`)
  }
  run(folder, 'tar', '-xf', tarball)
  for (const { path } of files) {
    const text = readFileSync(join(folder, 'package', path), 'utf8')
    assert.ok(!text.includes(root) && !text.includes(folder), `${path} names a folder of this machine`)
    assert.doesNotMatch(text, /\/\/registry\.|sourceMappingURL/, `${path} names a registry or a source map`)
  }
  assert.doesNotMatch(readFileSync(join(root, 'package-lock.json'), 'utf8'), /"resolved": "http/, 'the lock file names a registry')
  console.log(`tarball: ${files.length} files, ${Math.ceil(unpackedSize / 1024)} KiB unpacked`)

  const bin = name => join(root, 'node_modules', name)
  run(root, process.execPath, bin('publint/src/cli.js'), '--strict', tarball)
  // Nobody on Node 20 resolves as Node 10 did, which knew no `exports`.
  run(root, process.execPath, bin('@arethetypeswrong/cli/dist/index.js'), tarball, '--no-emoji', '--profile', 'node16')
  console.log('publint and attw: no problems')

  const fastify = JSON.parse(readFileSync(bin('fastify/package.json'), 'utf8')).version
  const install = (...names) => npm(folder, 'install', '--prefer-offline', '--omit=dev', '--no-audit', '--no-fund', ...names)
  writeFileSync(join(folder, 'package.json'), '{ "private": true }')
  install(`fastify@${fastify}`)
  const before = packages()
  install(tarball)
  const added = packages().filter(name => !before.includes(name))
  assert.ok(added.length <= 5, `the production tree has ${added.length} packages besides Fastify's own: ${added}`)
  console.log(`besides Fastify's own: ${added.join(', ')}`)

  // None of the libraries that the adapters are for is installed here.
  for (const [path, name] of [['schedule', 'addSchedule'], ['sqs-consumer', 'createSqsConsumer'], ['bullmq', 'createBullmqWorker']]) {
    writeFileSync(join(folder, 'adapter.mjs'), `import { ${name} } from 'fastify-fargate/${path}'\nconsole.log(typeof ${name})`)
    writeFileSync(join(folder, 'adapter.cjs'), `console.log(typeof require('fastify-fargate/${path}').${name})`)
    for (const file of ['adapter.mjs', 'adapter.cjs']) assert.equal(run(folder, process.execPath, file), 'function\n', `${path}, ${file}`)
    console.log(`loads: fastify-fargate/${path}`)
  }

  for (const [file, shape] of Object.entries(shapes)) {
    writeFileSync(join(folder, file), service(file, shape))
    assert.equal(run(folder, process.execPath, file), 'ready\n', file)
    console.log(`registers and is ready: ${file}`)
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
