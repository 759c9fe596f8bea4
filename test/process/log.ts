// The last lines of a process are the ones that tell why it ended: they are written whole, wherever they go.

import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { atLeast, beside, connect, LONG_WAIT, NO_WAIT } from '../fixtures/process-client.js'
import { start, type Exit, type Line } from '../support/service.js'

t.jobs = 4

function isWhole (t: Test, text: string, { code, signal }: Exit, burst: number): void {
  t.strictSame([code, signal], [0, null])
  t.ok(text.endsWith('}\n'), 'the last line is whole')
  const lines: Line[] = text.trim().split('\n').map(line => JSON.parse(line))
  t.match(lines.at(-1), { report: { reason: 'SIGTERM', exitCode: 0 } }, 'and it is the report')
  t.equal(lines.filter(({ msg }) => msg === 'burst').length, burst, 'no other line is lost')
}

for (const kind of ['default', 'sync', 'minLength']) {
  t.test(`a log to stdout is whole (${kind})`, beside(), async t => {
    const service = await start(t, 'process-log', { env: NO_WAIT, args: [kind, '2000'] })
    service.kill('SIGTERM')
    const exit = await service.exited
    isWhole(t, exit.stdout, exit, 2000)
  })
}

// A real pipe, as in `node server.js | collector`: what Node opens between processes is a pair of sockets.
const wrapper = (pipe: string) => (argv: string[]): string[] => ['sh', '-c', 'exec "$@" >"$0"', pipe, ...argv]

for (const kind of ['default', 'minLength']) {
  t.test(`a log to a pipe whose reader is slow is whole (${kind})`, beside(), async t => {
    const pipe = join(t.testdir(), 'pipe')
    spawnSync('mkfifo', [pipe])
    const service = await start(t, 'process-log', { env: NO_WAIT, args: [kind, '800'], wrapper: wrapper(pipe), ready: false })
    const text = readSlowly(pipe, service.message(({ burst }) => burst))
    await service.ready
    service.kill('SIGTERM')
    isWhole(t, await text, await service.exited, 800)
  })
}

t.test('the report is written to a non-blocking pipe that has no room for it', beside(), async t => {
  const pipe = join(t.testdir(), 'pipe')
  spawnSync('mkfifo', [pipe])
  const service = await start(t, 'process-log', { env: { ...NO_WAIT, LOG_FILE: pipe }, args: ['nonblocking'], ready: false })
  const text = readSlowly(pipe, service.message(({ burst }) => burst))
  await service.ready
  service.kill('SIGTERM')
  isWhole(t, (await text).replace(/\n+/g, '\n'), await service.exited, 0)
})

/** Nothing until `begin`, then a page a millisecond: slower than the service writes, faster than it loses patience. */
async function readSlowly (pipe: string, begin: Promise<unknown>): Promise<string> {
  let text = ''
  const handle = await open(pipe, 'r')
  await begin
  await atLeast(50)
  const page = Buffer.alloc(4096)
  for (;;) {
    const { bytesRead } = await handle.read(page, 0, page.length)
    if (bytesRead === 0) break
    text += page.toString('latin1', 0, bytesRead)
    await atLeast(1)
  }
  await handle.close()
  return text
}

t.test('a log by way of pino/file is whole', beside(), async t => {
  const file = join(t.testdir(), 'log')
  const service = await start(t, 'process-log', { env: { ...NO_WAIT, LOG_FILE: file }, args: ['file', '2000'] })
  service.kill('SIGTERM')
  const exit = await service.exited
  isWhole(t, readFileSync(file, 'utf8'), exit, 2000)
})

t.test('a log by way of a transport that takes 2 ms for each line is whole', beside(), async t => {
  const folder = t.testdir({
    'transport.mjs': `
import { appendFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import build from 'pino-abstract-transport'
export default async ({ file }) => build(async source => {
  for await (const line of source) {
    await sleep(2)
    appendFileSync(file, line + '\\n')
  }
}, { parse: 'lines' })`
  })
  const file = join(folder, 'log')
  const service = await start(t, 'process-log', {
    env: { ...NO_WAIT, LOG_FILE: file, TRANSPORT: join(folder, 'transport.mjs') }, args: ['transport', '10']
  })
  // A thread that is still starting is another matter.
  while (!existsSync(file)) await atLeast(10)
  service.kill('SIGTERM')
  const exit = await service.exited
  isWhole(t, readFileSync(file, 'utf8'), exit, 10)
})

t.test('without a logger the report is on the channel fastify-fargate.report', beside(), async t => {
  const service = await start(t, 'process-log', { env: NO_WAIT, args: ['none'] })
  service.kill('SIGTERM')
  const { code, signal, stdout } = await service.exited
  t.strictSame([code, signal], [0, null])
  t.equal(stdout, '')
  t.match(service.messages.filter(({ reported }) => reported), [{ reported: { reason: 'SIGTERM', exitCode: 0 } }])
})

t.test('the report says what the clients saw', beside(), async t => {
  const service = await start(t, 'process-service', { env: LONG_WAIT })
  const inFlight = await Promise.all(['a', 'b', 'c'].map(async name => (await connect(t, service.port)).get(`/held/${name}`)))
  for (const name of ['a', 'b', 'c']) await service.message(({ held }) => held === name)
  service.kill('SIGTERM')
  await service.line(({ msg }) => /: draining, with 3 in flight/.test(msg))
  const late = await Promise.all(['d', 'e'].map(async name => (await connect(t, service.port)).get(`/plain/${name}`)))
  const probe = (await connect(t, service.port)).get('/health/ready')
  const gone = (await connect(t, service.port)).get('/held/gone')
  await service.message(({ held }) => held === 'gone')
  gone.socket.destroy()
  await Promise.all([...late, probe].map(async ({ ended }) => { t.equal(await ended, 'FIN') }))
  for (const name of ['a', 'b', 'c']) service.send(name)
  await Promise.all(inFlight.map(async ({ ended }) => { t.equal(await ended, 'FIN') }))
  service.kill('SIGINT')

  const { code, report, lines } = await service.exited
  t.equal(code, 0)
  const seen = late.filter(({ statuses }) => statuses[0] === 200).length
  t.match(report, {
    reason: 'SIGTERM',
    exitCode: 0,
    order: 'signal-first',
    requests: { inFlightAtSignal: inFlight.length, servedWhileDraining: seen, lastAfterMs: Number },
    cut: [],
    errors: []
  })
  const { drainingMs, closingMs, closeMs, totalMs } = report?.durations
  t.ok(Math.abs(drainingMs + closingMs + closeMs - totalMs) <= 2, 'its durations add up')
  t.ok(report?.requests.lastAfterMs <= drainingMs)
  t.match(lines.at(-1)?.msg, /^stopped .* after SIGTERM, served 2 requests after it, nothing was lost$/)
})
