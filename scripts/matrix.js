// The tests with real processes, on other versions of Node and Fastify. Each version is installed into .matrix/.
// `npm run test:matrix -- 26 5.0.0`: only Node 26, and Fastify 5.0.0.
// A fixture loads the Fastify that it is given: `await import(process.env.FASTIFY_ENTRY ?? 'fastify')`.

import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { delimiter, dirname, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

process.chdir(fileURLToPath(new URL('..', import.meta.url)))

const runs = [
  { node: '20.19.0', fastify: 'latest' },
  { node: '22', fastify: 'latest' },
  { node: '24', fastify: 'latest' },
  { node: '26', fastify: 'latest' },
  { fastify: '5.0.0' },
  { fastify: '5.9.0' },
  { fastify: 'latest' }
]

const installed = new Set()

function install (name, version) {
  const folder = resolve(`.matrix/${name}-${version}`)
  const home = `${folder}/node_modules/${name}`
  if (!installed.has(home) && (version === 'latest' || !existsSync(home))) {
    mkdirSync(folder, { recursive: true })
    writeFileSync(`${folder}/package.json`, '{ "private": true }\n')
    const flags = ['--loglevel=error', '--no-audit', '--no-fund']
    execFileSync('npm', ['install', ...flags, `${name}@${version}`], { cwd: folder, stdio: 'inherit' })
  }
  installed.add(home)
  return { home, ...JSON.parse(readFileSync(`${home}/package.json`, 'utf8')) }
}

function run ({ node, fastify }) {
  const binary = node ? `${install('node', node).home}/bin/node` : process.execPath
  const { home, main, version } = install('fastify', fastify)
  const title = `Node ${execFileSync(binary, ['--version'], { encoding: 'utf8' }).trim().slice(1)}, Fastify ${version}`
  console.log(`\n== ${title}`)

  const start = performance.now()
  const tap = ['node_modules/tap/dist/esm/run.mjs', '--reporter=tap', '--disable-coverage']
  const suites = ['test/process', 'test/balancer'].filter(folder => existsSync(folder)).map(folder => `${folder}/*.ts`)
  const { status, stdout } = spawnSync(binary, [...tap, ...suites], {
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
    stdio: ['ignore', 'pipe', 'inherit'],
    env: {
      ...process.env,
      PATH: dirname(binary) + delimiter + process.env.PATH,
      FASTIFY_ENTRY: pathToFileURL(resolve(home, main)).href
    }
  })
  const counts = /^# \{ total: .*\}$/m.exec(stdout)?.[0] ?? ''
  const [passed = 0, failed = 0, skipped = 0] = ['pass', 'fail', 'skip'].map(key =>
    Number(new RegExp(`\\b${key}: (\\d+)`).exec(counts)?.[1] ?? 0))
  const ok = status === 0 && passed > 0
  if (!ok) console.log(stdout)
  return { title, passed, failed, skipped, seconds: Math.round((performance.now() - start) / 1000), ok }
}

const wanted = process.argv.slice(2)
const results = runs.filter(({ node, fastify }) => wanted.length === 0 || wanted.includes(node) || (node === undefined && wanted.includes(fastify))).map(run)
console.log()
console.table(Object.fromEntries(results.map(({ title, ...result }) => [title, result])))
process.exitCode = results.every(({ ok }) => ok) ? 0 : 1
