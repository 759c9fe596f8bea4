import fs from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import t, { type Test } from 'tap'
import { systemHost } from '../lib/host.js'
import { turnOfEventLoop } from './support/clock.js'

/** What process 1 was started with, as far as /proc goes. */
function init (t: Test, cmdline: () => string) {
  t.intercept(fs, 'readFileSync', { value: cmdline })
  syncBuiltinESMExports()
  t.teardown(() => {
    delete (fs as { readFileSync?: unknown }).readFileSync
    fs.readFileSync = readFileSync
    syncBuiltinESMExports()
  })
}
const { readFileSync } = fs

/** Exits are values here: the processes of test/process end for real. */
function exits (t: Test) {
  let told!: () => void
  const first = new Promise<void>((resolve) => { told = resolve })
  const capture = t.capture(process, 'exit', (() => { told() }) as typeof process.exit)
  return { first, codes: () => capture().map(({ args }) => args[0]) }
}

t.test('the environment is that of the process', async (t) => {
  t.equal(systemHost.env, process.env)
})

t.test('listeners are put on the process and taken off again', async (t) => {
  const before = systemHost.listeners('SIGUSR2')
  let calls = 0
  const listener = () => { calls++ }
  systemHost.on('SIGUSR2', listener)
  t.strictSame(systemHost.listeners('SIGUSR2'), [...before, listener])
  process.emit('SIGUSR2')
  t.equal(calls, 1)
  systemHost.off('SIGUSR2', listener)
  t.strictSame(systemHost.listeners('SIGUSR2'), before)
})

t.test('exit ends the process with the code', async (t) => {
  const { codes } = exits(t)
  systemHost.exit(1)
  t.strictSame(codes(), [1])
})

t.test('closeAndExit runs the close once, and exits with 0', async (t) => {
  const { codes, first } = exits(t)
  let calls = 0
  systemHost.closeAndExit(async () => { calls++ }, 2000, () => { t.fail('it was not late') })
  await first
  t.strictSame(codes(), [0])
  t.equal(calls, 1)
})

t.test('closeAndExit exits with 1 when the close rejects, and prints nothing', async (t) => {
  const { codes, first } = exits(t)
  const printed = t.capture(console, 'error')
  systemHost.closeAndExit(() => Promise.reject(new Error('failed')), 2000, () => { t.fail('it was not late') })
  await first
  t.strictSame(codes(), [1])
  t.strictSame(printed(), [])
})

t.test('closeAndExit exits with 1 at the limit, and tells before', async (t) => {
  const { codes, first } = exits(t)
  const late: unknown[][] = []
  systemHost.closeAndExit(() => new Promise(() => {}), 5, () => { late.push(codes()) })
  await first
  t.strictSame(late, [[]], 'told once, with no exit yet')
  t.strictSame(codes(), [1])
})

t.test('closeAndExit puts no listener of its own on the process', async (t) => {
  const { first } = exits(t)
  const events = () => process.eventNames().map((event) => [event, process.listenerCount(event)])
  const before = events()
  let during: unknown
  systemHost.closeAndExit(async () => {
    await turnOfEventLoop()
    during = events()
  }, 2000, () => {})
  await first
  t.strictSame(during, before)
  t.strictSame(events(), before)
})

t.test('the command of process 1 is one line', async (t) => {
  init(t, () => '/bin/sh\0-c\0node server.js\0')
  t.equal(systemHost.initCommand(), '/bin/sh -c node server.js')
})

t.test('where /proc cannot be read, process 1 is unknown', async (t) => {
  init(t, () => { throw new Error('ENOENT') })
  t.equal(systemHost.initCommand(), undefined)
})

t.test('when this is process 1, there is no other', async (t) => {
  init(t, () => 'node\0server.js\0')
  t.intercept(process, 'pid', { value: 1 })
  t.equal(systemHost.initCommand(), undefined)
})

t.test('atExit comes before what listens already: a logger writes what is left of its lines', async (t) => {
  const calls: string[] = []
  const logger = () => { calls.push('logger') }
  const ours = () => { calls.push('ours') }
  process.on('exit', logger)
  systemHost.atExit(ours)
  const listeners = process.listeners('exit').filter((listener) => listener === logger || listener === ours)
  process.off('exit', logger)
  process.off('exit', ours)
  t.strictSame(listeners, [ours, logger])
})
