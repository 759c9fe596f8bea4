// Mutation testing with Stryker: `npm run test:mutation`, or with the names of some files of lib/ (`-- countdown hooks`).
// Each file is held against the tests that are named after it, and those of the parts that it is wired into: that
// is what makes some thousand mutants bearable. What survives is listed.

import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

process.chdir(fileURLToPath(new URL('..', import.meta.url)))

/** Tests beside the one of the same name. */
const more = {
  'deregistration/waiting': [],
  holders: ['test/sequence.ts'],
  plugin: ['test/addserver.ts', 'test/bootchecks.ts', 'test/probes.ts', 'test/selfcheck.ts'],
  probes: ['test/selfcheck.ts'],
  sequence: ['test/plugin.ts'],
  // Every default is in the README.
  settings: ['test/readme.ts'],
  sockets: ['test/addserver.ts', 'test/plugin.ts']
}

const base = JSON.parse(readFileSync('stryker.config.json', 'utf8'))
const wanted = process.argv.slice(2)
const files = readdirSync('lib', { recursive: true }).filter((name) => name.endsWith('.ts')).map((name) => name.slice(0, -3))
  .filter((name) => name !== 'index' && (wanted.length === 0 || wanted.includes(name)))

let killed = 0
let survived = 0
for (const name of files.sort()) {
  const testFiles = [`test/${name}.ts`, ...more[name] ?? []].filter(existsSync)
  if (testFiles.length === 0) continue
  const config = '.stryker.json'
  const report = `.stryker/${name.replaceAll('/', '-')}.json`
  writeFileSync(config, JSON.stringify({
    ...base,
    mutate: [`lib/${name}.ts`],
    tap: { testFiles, nodeArgs: ['--import=./test/support/typescript.js', '-r', '{{hookFile}}', '{{testFile}}'] },
    jsonReporter: { fileName: report }
  }))
  const { status, stdout } = spawnSync('node_modules/.bin/stryker', ['run', config], { encoding: 'utf8' })
  rmSync(config, { force: true })
  if (!existsSync(report)) {
    console.log(stdout)
    throw new Error(`${name}: Stryker has made no report (${status})`)
  }
  const { files: mutated } = JSON.parse(readFileSync(report, 'utf8'))
  for (const [path, { source, mutants }] of Object.entries(mutated)) {
    const of = (...wanted) => mutants.filter((mutant) => wanted.includes(mutant.status))
    const alive = of('Survived', 'NoCoverage')
    killed += of('Killed', 'Timeout').length
    survived += alive.length
    console.log(`${path}: ${of('Killed', 'Timeout').length} of ${mutants.length - of('RuntimeError', 'CompileError', 'Ignored').length} killed`)
    for (const { location: { start, end }, replacement = '' } of alive) {
      const line = source.split('\n')[start.line - 1]
      const was = line.slice(start.column - 1, end.line === start.line ? end.column - 1 : undefined)
      console.log(`  ${path}:${start.line}  ${was.slice(0, 90)}  ->  ${replacement.replace(/\s+/g, ' ').slice(0, 90)}`)
    }
  }
}
const score = 100 * killed / (killed + survived)
console.log(`\nmutation score ${score.toFixed(1)} %: ${killed} killed, ${survived} survived`)
process.exitCode = score >= 90 ? 0 : 1
