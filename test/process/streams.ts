// Responses without an end: server-sent events of @fastify/sse, by hand, and what is not one.

import t, { type Test } from 'tap'
import {
  beside, connect, hasClosed, isClosing, isDraining, LONG_WAIT, names, NO_WAIT, SHORT, SHORT_DEADLINE_MS, SHORT_STOP_TIMEOUT_MS,
  SHORT_STREAM_LIMIT_MS, type Wire
} from '../fixtures/process-client.js'
import { start, type Line, type Owner, type Service } from '../support/service.js'

t.jobs = 4

const EVENT = /\r\n\r\n[^]*data: news \d+/
const LAST_CHUNK = /\r\n0\r\n\r\n$/

/** A stream whose first event has come. */
async function listen (t: Owner, { port }: Service, path: string): Promise<Wire> {
  const wire = (await connect(t, port)).get(path, 'Accept: text/event-stream\r\n')
  await wire.seen(EVENT)
  return wire
}

/** Streams are cut this long before the deadline, and onClose has run in between. */
function closedBetween (t: Test, lines: Line[]): void {
  const at = (match: (line: Line) => boolean): number => lines.findIndex(match)
  t.ok(at(names) >= 0 && at(names) < at(hasClosed), 'onClose runs after the cut')
  t.ok(at(hasClosed) < at(({ report }) => report !== undefined), 'and has run before the report')
}

/** With @fastify/sse, and by hand. */
const ENDING = ['/events/a', '/raw-events/a']
const ENDLESS = ['/endless/a', '/raw-endless/a']

t.test('streams that their handlers end when closing begins are whole', beside(), async t => {
  // Where coverage is measured somebody else listens for SIGTERM, and the boot check says so.
  const service = await start(t, 'process-sse', { env: NO_WAIT, coverage: false })
  const wires = await Promise.all([...ENDING, ...ENDING].map(async path => await listen(t, service, path)))
  for (const path of ENDING) {
    // There need not have been an event.
    const quiet = (await connect(t, service.port)).get(path.replace('/a', '/nothing'), 'Accept: text/event-stream\r\n')
    await quiet.seen(/\r\n\r\n/)
    wires.push(quiet)
  }
  service.kill('SIGTERM')
  for (const wire of wires) {
    t.equal(await wire.ended, 'FIN')
    t.match(wire.text, LAST_CHUNK, 'with its last chunk')
    t.strictSame(wire.statuses, [200])
  }
  const { code, signal, report, lines, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [0, null])
  t.ok(exitedAtMs < 20_000)
  t.match(report, { exitCode: 0, cut: [], cutCount: 0, errors: [], requests: { inFlightAtSignal: 6 } })
  t.ok(lines.some(hasClosed))
  t.strictSame(lines.filter(({ level }) => level >= 40), [], 'and the log is quiet')
})

t.test('while draining they go on, and new ones are served', beside(), async t => {
  const service = await start(t, 'process-sse', { env: LONG_WAIT })
  const old = await Promise.all(ENDING.map(async path => await listen(t, service, path)))
  service.kill('SIGTERM')
  await service.line(isDraining)
  const young = await Promise.all(ENDING.map(async path => await listen(t, service, path)))
  for (const wire of old) {
    const [last] = [...wire.text.matchAll(/news \d+/g)].slice(-1)
    await wire.seen(new RegExp(`${last![0]}\\b[^]*data: news`))
  }
  t.notOk(service.lines.some(isClosing))

  service.kill('SIGINT')
  for (const wire of [...old, ...young]) {
    t.equal(await wire.ended, 'FIN')
    t.match(wire.text, LAST_CHUNK)
  }
  t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0, cut: [], requests: { inFlightAtSignal: 2, servedWhileDraining: 2 } } })
})

t.test('streams that nobody ends are cut at their limit, in time for onClose, and named', beside(), async t => {
  const service = await start(t, 'process-sse', { env: SHORT })
  const wires: Wire[] = []
  for (const path of ENDLESS) wires.push(await listen(t, service, `${path}?token=secret`))
  service.kill('SIGTERM')
  for (const wire of wires) {
    t.not(await wire.ended, 'closed')
    t.notMatch(wire.text, LAST_CHUNK, 'its client sees that it is not whole')
  }
  const { code, signal, report, lines, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [1, null])
  t.ok(exitedAtMs >= SHORT_STREAM_LIMIT_MS, 'not before')
  t.ok(exitedAtMs < SHORT_STOP_TIMEOUT_MS)
  const named = ENDLESS.map(path => ({ kind: 'stream', name: `GET ${path.replace('/a', '/:name')}`, path, requestId: /^req-/, remoteAddress: '127.0.0.1' }))
  t.match(report, { exitCode: 1, cut: named, cutCount: 2, errors: [] })
  t.equal(report?.cut.length, 2)
  t.match(lines.find(names), {
    level: 50,
    holders: named,
    msg: /^the limit for streams of 1\.88 s is reached; cut off: GET \/endless\/:name \(req-.*, GET \/raw-endless\/:name \(req-/
  })
  t.notMatch(JSON.stringify(lines.filter(({ holders, report }) => holders ?? report)), /secret/)
  closedBetween(t, lines)
})

t.test('a second signal brings the limit for streams forward', beside(), async t => {
  const service = await start(t, 'process-sse', { env: { ...NO_WAIT, FARGATE_STOP_TIMEOUT: '120', FARGATE_ABORT_GRACE: '1' } })
  const wire = await listen(t, service, '/endless/a')
  service.kill('SIGTERM')
  await service.line(isClosing)
  service.kill('SIGINT')
  t.not(await wire.ended, 'closed')
  const { code, signal, report, lines, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [1, null])
  t.ok(exitedAtMs >= 500)
  t.ok(exitedAtMs < 20_000)
  t.match(report, { cut: [{ kind: 'stream', name: 'GET /endless/:name' }] })
  closedBetween(t, lines)
})

t.test('of 300 streams the log has one short line, and the report a hundred', beside(), async t => {
  const service = await start(t, 'process-sse', { env: SHORT })
  const wires = await Promise.all(Array.from({ length: 300 }, async () => await listen(t, service, '/raw-endless/a')))
  service.kill('SIGTERM')
  const ends = await Promise.all(wires.map(async ({ ended }) => await ended))
  t.notOk(ends.includes('closed'), 'all are cut')
  const { code, signal, report, lines } = await service.exited
  t.strictSame([code, signal], [1, null])
  t.equal(report?.cut.length, 100)
  t.equal(report?.cutCount, 300)
  const named = lines.filter(names)
  t.equal(named.length, 1)
  t.equal(named[0]?.holders.length, 100)
  t.match(named[0]?.msg, /; cut off: 300 of GET \/raw-endless\/:name \(up to [\d.]+ s\)$/)
  t.match(lines.at(-1)?.msg, /cut: 100 of GET \/raw-endless\/:name \(up to [\d.]+ s\), 300 in all$/)
  closedBetween(t, lines)
})

t.test('whole, but slowly read: not cut at the limit for streams', beside(), async t => {
  // Half of abortGrace, which is 2.5 s, lies between that limit and the deadline.
  const service = await start(t, 'process-sse', {
    env: { ...NO_WAIT, FARGATE_STOP_TIMEOUT: '7', FARGATE_MARGIN: '1', FARGATE_CLOSE_RESERVE: '5', FARGATE_ABORT_GRACE: '5' }
  })
  const slow = (await connect(t, service.port)).get('/finite')
  await slow.seen(/content-length: 20000000\r\n[^]*\r\n\r\n/i)
  slow.socket.pause()
  const endless = await listen(t, service, '/endless/a')
  service.kill('SIGTERM')
  await service.line(names)
  t.not(await endless.ended, 'closed')
  const soFar = slow.bytes
  slow.socket.resume()

  t.equal(await slow.ended, 'FIN')
  t.ok(soFar < 20e6 && slow.bytes > 20e6, `${slow.bytes} bytes came, ${soFar} of them before`)
  const { code, signal, report } = await service.exited
  t.strictSame([code, signal], [1, null])
  t.match(report, { cutCount: 1, cut: [{ kind: 'stream', name: 'GET /endless/:name' }] })
})

t.test('a client that resets its stream is forgotten', beside(), async t => {
  const service = await start(t, 'process-sse', { env: NO_WAIT })
  const [before, after] = [await listen(t, service, '/endless/before'), await listen(t, service, '/raw-endless/after')]
  before.socket.resetAndDestroy()
  service.kill('SIGTERM')
  await service.line(isClosing)
  after.socket.resetAndDestroy()
  const { code, signal, report, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [0, null])
  t.match(report, { exitCode: 0, cut: [], errors: [] })
  t.ok(exitedAtMs < 20_000)
})

t.test('a client that does not read holds no longer than its limit: that for streams, or the deadline if there is an end', beside(), async t => {
  const service = await start(t, 'process-sse', { env: SHORT })
  for (const path of ['/flood', '/flood-that-ends', '/finite']) {
    const deaf = (await connect(t, service.port)).get(path)
    await deaf.seen(/\r\n\r\n/)
    deaf.socket.pause()
  }
  const other = await listen(t, service, '/events/a')
  service.kill('SIGTERM')
  t.equal(await other.ended, 'FIN')
  t.match(other.text, LAST_CHUNK, 'the others lose nothing')
  const { code, signal, report, lines, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [1, null])
  t.ok(exitedAtMs >= SHORT_DEADLINE_MS)
  t.ok(exitedAtMs < SHORT_STOP_TIMEOUT_MS)
  t.match(report, {
    cutCount: 3,
    cut: [{ kind: 'stream', name: 'GET /flood' }, { kind: 'response', name: 'GET /flood-that-ends' }, { kind: 'response', name: 'GET /finite' }]
  })
  closedBetween(t, lines)
})
