// `npm test`, the whole truth: CI calls nothing else. A stage that fails does not hide the others, and the last line
// adds them all up: tap's own count, and one for each other stage.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { transformSync } from 'amaro'

process.chdir(fileURLToPath(new URL('..', import.meta.url)))

if (!process.stdout.isTTY) process.env.NO_COLOR = '1'

const total = { passed: 0, failed: 0, skipped: 0 }

async function run (args, stdout = 'inherit', onLine = () => {}) {
  const child = spawn(process.execPath, args, { stdio: ['ignore', stdout, 'inherit'] })
  if (child.stdout) for await (const line of createInterface({ input: child.stdout })) onLine(line)
  const [code] = child.exitCode === null ? await once(child, 'close') : [child.exitCode]
  return code
}

async function stage (name, work) {
  const start = performance.now()
  console.log(`\n== ${name}`)
  const counts = await work()
  for (const key of Object.keys(total)) total[key] += counts[key] ?? 0
  const seconds = ((performance.now() - start) / 1000).toFixed(1)
  console.log(`== ${name}: ${counts.failed ? 'FAILED' : 'passed'} in ${seconds} s`)
}

const tool = (...args) => async () => await run(args) === 0 ? { passed: 1 } : { failed: 1 }

// tap prints every assertion. The rules that the tests are named after, what failed and what was skipped are enough.
const noise = /^\s*(1\.\.\d+|}|TAP version 14|# Subtest: .*|ok \d+ - (?!.*# (time=|SKIP|TODO)).*)?$/

async function tests () {
  const tap = 'node_modules/tap/dist/esm/run.mjs'
  // In the run in which tap first builds itself without a plugin (see .taprc), it still loads that plugin.
  if (!existsSync('.tap/plugins')) await run([tap, 'build'], 'ignore')
  const counts = { passed: 0, failed: 0, skipped: 0 }
  const code = await run([tap, '--reporter=tap'], 'pipe', line => {
    if (!noise.test(line)) console.log(line)
    if (!line.startsWith('# { total:')) return
    const of = key => Number(new RegExp(`\\b${key}: (\\d+)`).exec(line)?.[1] ?? 0)
    counts.passed += of('pass')
    counts.failed += of('fail')
    counts.skipped += of('skip') + of('todo')
  })
  // No test failed, yet tap did: the coverage is not 100 %, or the run was cut short.
  if (code !== 0 && counts.failed === 0) counts.failed = 1
  return counts
}

// tap's coverage knows nothing about a file that no test has loaded.
function everyFileIsCovered () {
  const loaded = new Set(readdirSync('.tap/coverage').flatMap(name =>
    JSON.parse(readFileSync(`.tap/coverage/${name}`, 'utf8')).result.map(({ url }) => url.replace(/\?.*/, ''))))
  const missing = readdirSync('lib', { recursive: true })
    .filter(name => name.endsWith('.ts'))
    .filter(name => !loaded.has(pathToFileURL(`lib/${name}`).href))
    .filter(name => !/^(\s|\/\/.*|\/\*[^]*?\*\/)*$/.test(transformSync(readFileSync(`lib/${name}`, 'utf8')).code))
  for (const name of missing) console.log(`lib/${name} is loaded by no test`)
  return missing.length > 0 ? { failed: 1 } : { passed: 1 }
}

await stage('lint', tool('node_modules/eslint/bin/eslint.js', '.'))
await stage('types', tool('node_modules/typescript/bin/tsc'))
await stage('tests', tests)
await stage('every file of lib/ is tested', everyFileIsCovered)
await stage('build', tool('scripts/build.js'))
await stage('type tests', tool('node_modules/tstyche/build/bin.js'))
await stage('package', tool('scripts/package.js'))

if (total.skipped > 0) console.log(`\n${total.skipped} skipped`)
process.exitCode = total.failed > 0 ? 1 : 0
console.log(`\n${total.passed} passed, ${total.failed} failed`)
