// WebSocket clients: when they are told to go, and what becomes of those who don't.

import t from 'tap'
import { WebSocket } from 'ws'
import {
  atLeast, beside, connect, hasClosed, isClosing, isDraining, LONG_WAIT, names, NO_WAIT, SHORT, SHORT_STOP_TIMEOUT_MS, SHORT_STREAM_LIMIT_MS, type Wire
} from '../fixtures/process-client.js'
import { start, type Owner, type Service } from '../support/service.js'

t.jobs = 4

const GOING_AWAY = { code: 1001, reason: 'the service is stopping' }

/** A client has a second and a half to answer its close frame: time enough on a busy machine. */
const PATIENT = { ...NO_WAIT, FARGATE_STOP_TIMEOUT: '20', FARGATE_CLOSE_RESERVE: '3' }
const PATIENT_GRACE_MS = 1500

interface Client {
  readonly ws: WebSocket
  /** What came. */
  readonly messages: string[]
  /** Settles when the connection has ended: with what the server said, and when. */
  readonly left: Promise<{ code: number, reason: string, atMs: number }>
  /** Sends a message, and resolves when its echo has come. */
  echo: (text: string) => Promise<void>
}

async function join (t: Owner, port: number, path = '/chat', host = '127.0.0.1'): Promise<Client> {
  const ws = new WebSocket(`ws://${host}:${port}${path}`)
  t.teardown(() => { ws.terminate() })
  const messages: string[] = []
  ws.on('message', data => { messages.push(String(data)) })
  const left = new Promise<{ code: number, reason: string, atMs: number }>(resolve => {
    ws.once('close', (code, reason) => { resolve({ code, reason: String(reason), atMs: performance.now() }) })
  })
  await new Promise<void>((resolve, reject) => ws.once('open', resolve).once('error', reject))
  return {
    ws,
    messages,
    left,
    async echo (text) {
      const echoed = new Promise<void>(resolve => ws.on('message', data => { if (String(data) === `echo: ${text}`) resolve() }))
      ws.send(text)
      await Promise.race([echoed, left.then(({ code }) => { throw new Error(`closed with ${code} instead of an echo`) })])
    }
  }
}

/** A client that speaks the protocol as far as a test wants, and answers nothing. */
async function joinBare (t: Owner, port: number, path = '/chat'): Promise<Wire> {
  const wire = await connect(t, port)
  wire.get(path, 'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n')
  await wire.seen(/^HTTP\/1\.1 101 [^]*\r\n\r\n/)
  return wire
}

async function get (t: Owner, { port }: Service, path: string): Promise<Wire> {
  return (await connect(t, port)).get(path)
}

/** A close frame, after whatever came before it. */
const CLOSE_FRAME = /the service is stopping/

t.test('clients are told when draining has ended, and before the server closes', beside(), async t => {
  const service = await start(t, 'process-websocket', { env: { ...LONG_WAIT, FARGATE_DEREGISTRATION_DELAY: '1' } })
  const client = await join(t, service.port)
  const request = await get(t, service, '/held/a')
  await service.message(({ held }) => held === 'a')
  const killedMs = performance.now()
  service.kill('SIGTERM')
  await service.line(isDraining)
  await client.echo('still there?')
  const reconnected = await join(t, service.port)
  await reconnected.echo('and served?')

  t.match(await client.left, GOING_AWAY)
  t.match(await reconnected.left, GOING_AWAY)
  const { atMs } = await client.left
  t.ok(atMs - killedMs >= 1000, 'not before draining has ended')
  await service.line(isClosing)
  t.notOk(service.lines.some(hasClosed), 'the request in flight keeps the server open')
  service.send('a')
  t.equal(await request.ended, 'FIN')
  t.match(request.text, /a is answered$/)
  t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0, cut: [], errors: [] } })
})

t.test('with websocketClose draining they are told at once, and told again if they come back; requests are served', beside(), async t => {
  const service = await start(t, 'process-websocket', { env: { ...LONG_WAIT, FARGATE_WEBSOCKET_CLOSE: 'draining' } })
  const client = await join(t, service.port)
  service.kill('SIGTERM')
  t.match(await client.left, GOING_AWAY)
  await service.line(isDraining)
  const again = await join(t, service.port)
  await again.echo('here again')
  const request = await get(t, service, '/plain/served')
  t.equal(await request.ended, 'FIN')
  t.strictSame(request.statuses, [200])
  t.notOk(service.lines.some(isClosing))
  t.equal(again.ws.readyState, WebSocket.OPEN)

  service.kill('SIGINT')
  t.match(await again.left, GOING_AWAY)
  t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0, cut: [], errors: [] } })
})

t.test('with websocketClose none the application has the last word, in its onClosing hook', beside(), async t => {
  const service = await start(t, 'process-websocket', { env: { ...NO_WAIT, FARGATE_WEBSOCKET_CLOSE: 'none' }, args: ['goodbye'] })
  const client = await join(t, service.port)
  service.kill('SIGTERM')
  t.match(await client.left, { code: 4000, reason: 'goodbye' })
  t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0, cut: [], errors: [] } })
})

t.test('with websocketClose none whoever stays is cut at the limit for streams, and named', beside(), async t => {
  const service = await start(t, 'process-websocket', { env: { ...SHORT, FARGATE_WEBSOCKET_CLOSE: 'none' } })
  const silent = await joinBare(t, service.port, '/news/tech?token=secret')
  service.kill('SIGTERM')
  t.not(await silent.ended, 'closed')
  const { code, signal, report, lines, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [1, null])
  t.ok(exitedAtMs >= SHORT_STREAM_LIMIT_MS)
  t.ok(exitedAtMs < SHORT_STOP_TIMEOUT_MS)
  const named = { kind: 'websocket', name: 'WebSocket /news/tech', path: '/news/tech', remoteAddress: '127.0.0.1' }
  t.match(report, { exitCode: 1, cut: [named], cutCount: 1 })
  t.match(lines.find(names), { level: 50, holders: [named], msg: /^the limit for streams of 1\.88 s is reached; cut off: WebSocket \/news\/tech \(/ })
  t.ok(lines.some(hasClosed), 'onClose has run')
  t.notMatch(JSON.stringify(lines.filter(({ holders, report }) => holders ?? report)), /secret/)
})

t.test('a pace spreads them over its window', beside(), async t => {
  const service = await start(t, 'process-websocket', { env: { ...NO_WAIT, FARGATE_WEBSOCKET_PACE: '2' } })
  const clients: Client[] = []
  for (let i = 0; i < 10; i++) clients.push(await join(t, service.port))
  const killedMs = performance.now()
  service.kill('SIGTERM')
  const first = await clients[0]!.left
  t.match(first, GOING_AWAY)
  const afterMs: number[] = []
  for (const { left } of clients) {
    const { code, atMs } = await left
    t.equal(code, 1001)
    afterMs.push(atMs - killedMs)
  }
  // One each 200 ms. That a client was slow to notice makes it later, never earlier.
  afterMs.forEach((ms, index) => { t.ok(ms >= index * 200 - 1, `client ${index} after ${ms} ms`) })
  const { code, signal, report, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [0, null])
  t.ok(exitedAtMs >= 1800)
  t.match(report, { exitCode: 0, cut: [], errors: [] })
})

t.test('a second signal has the rest told at once', beside(), async t => {
  const service = await start(t, 'process-websocket', { env: { ...NO_WAIT, FARGATE_STOP_TIMEOUT: '120', FARGATE_WEBSOCKET_PACE: '80' } })
  const clients: Client[] = []
  for (let i = 0; i < 4; i++) clients.push(await join(t, service.port))
  service.kill('SIGTERM')
  t.match(await clients[0]!.left, GOING_AWAY)
  // The same signal within 250 ms is one that was delivered twice.
  await atLeast(300)
  await clients[3]!.echo('still there?')
  service.kill('SIGTERM')
  for (const { left } of clients) t.match(await left, GOING_AWAY)
  const { code, signal, report, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [0, null])
  t.match(report, { exitCode: 0, cut: [] })
  t.ok(exitedAtMs < 19_000, 'the second one would have been told after 20 s')
})

t.test('a client that never answers is cut when its time is over, and named; the others lose nothing', beside(), async t => {
  const service = await start(t, 'process-websocket', { env: PATIENT })
  const silent = await joinBare(t, service.port)
  const client = await join(t, service.port)
  const request = await get(t, service, '/held/a')
  await service.message(({ held }) => held === 'a')
  service.kill('SIGTERM')
  await silent.seen(CLOSE_FRAME)
  t.match(await client.left, GOING_AWAY)
  service.send('a')
  t.equal(await request.ended, 'FIN')
  t.match(request.text, /a is answered$/)

  t.not(await silent.ended, 'closed')
  const { code, signal, report, lines, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [1, null])
  t.ok(exitedAtMs >= PATIENT_GRACE_MS, 'not before')
  t.ok(exitedAtMs < 15_000, 'and not at a limit: ws itself would wait for 30 s')
  t.match(report, { exitCode: 1, cutCount: 1, cut: [{ kind: 'websocket', name: 'WebSocket /chat', path: '/chat', remoteAddress: '127.0.0.1' }], errors: [] })
  t.equal(report?.cut.length, 1)
  t.match(lines.at(-1)?.msg, /exit code 1: cut: WebSocket \/chat \(/)
  t.notOk(lines.some(names))
  t.ok(lines.some(hasClosed), 'onClose has run')
})

t.test('half a frame, a reset, and a client that does not read: none keeps the process, nor costs another its answer', beside(), async t => {
  const service = await start(t, 'process-websocket', { env: PATIENT })
  const half = await joinBare(t, service.port, '/news/half')
  // A text of 100 bytes, of which three come.
  half.socket.write(Buffer.from('81e40102030440', 'hex'))
  const torn = await joinBare(t, service.port, '/news/torn')
  torn.socket.write(Buffer.from('81', 'hex'))
  const deaf = await joinBare(t, service.port, '/flood')
  deaf.socket.pause()
  const [early, late] = [await joinBare(t, service.port, '/news/early'), await joinBare(t, service.port, '/news/late')]
  const client = await join(t, service.port)
  const request = await get(t, service, '/held/a')
  await service.message(({ held }) => held === 'a')
  early.socket.resetAndDestroy()
  await service.message(({ left }) => left === 1006)
  service.kill('SIGTERM')
  await late.seen(CLOSE_FRAME)
  late.socket.resetAndDestroy()
  // Its frame is half of a text; what is torn is no answer either.
  await torn.seen(CLOSE_FRAME)
  torn.socket.destroy()
  t.match(await client.left, GOING_AWAY)
  service.send('a')
  t.equal(await request.ended, 'FIN')
  t.match(request.text, /a is answered$/)

  const { code, signal, report, lines, stderr } = await service.exited
  t.strictSame([code, signal], [1, null])
  t.match(report, { exitCode: 1, cutCount: 2, errors: [] })
  t.strictSame(report?.cut.map(({ name }: { name: string }) => name), ['WebSocket /news/half', 'WebSocket /flood'], 'those who went by themselves were not cut')
  t.ok(lines.some(hasClosed))
  t.equal(stderr, '')
})

t.test('a client whose upgrade was under way when closing began is told at once', beside(), async t => {
  const service = await start(t, 'process-websocket', { env: PATIENT })
  const request = await get(t, service, '/held/a')
  await service.message(({ held }) => held === 'a')
  const joined = join(t, service.port, '/guarded')
  await service.message(({ held }) => held === 'guard')
  service.kill('SIGTERM')
  await service.line(isClosing)
  service.send('guard')
  t.match(await (await joined).left, GOING_AWAY)
  service.send('a')
  t.equal(await request.ended, 'FIN')
  t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0, cut: [], errors: [] } })
})

t.test('@fastify/websocket may be registered in a child instance', beside(), async t => {
  const service = await start(t, 'process-websocket', { env: NO_WAIT, args: ['child'] })
  const client = await join(t, service.port, '/live/chat')
  await client.echo('hello')
  service.kill('SIGTERM')
  t.match(await client.left, GOING_AWAY)
  t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0, cut: [], errors: [] } })
})

t.test('clients of a WebSocket server that the application made by hand are its own to end', beside(), async t => {
  const service = await start(t, 'process-websocket', { env: NO_WAIT, args: ['by-hand'] })
  const client = await join(t, service.port)
  service.kill('SIGTERM')
  t.match(await client.left, { code: 4000, reason: 'goodbye' })
  t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0, cut: [], errors: [] } })
})

t.test('and are cut at the limit for streams if they do not answer', beside(), async t => {
  const service = await start(t, 'process-websocket', { env: SHORT, args: ['by-hand'] })
  const silent = await joinBare(t, service.port)
  service.kill('SIGTERM')
  t.not(await silent.ended, 'closed')
  const { code, signal, report, lines, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [1, null])
  t.ok(exitedAtMs >= SHORT_STREAM_LIMIT_MS)
  t.ok(exitedAtMs < SHORT_STOP_TIMEOUT_MS)
  t.match(report, { cutCount: 1, cut: [{ kind: 'connection', name: 'an upgraded connection' }] })
  t.match(lines.find(names)?.msg, /^the limit for streams of 1\.88 s is reached; cut off: an upgraded connection \(/)
  t.ok(lines.some(hasClosed), 'onClose has run')
})

t.test('a plain fastify.close() tells them too, and does not wait for a silent one for long', beside(), async t => {
  const service = await start(t, 'process-websocket', { env: { ...PATIENT, FARGATE_WEBSOCKET_PACE: '120' } })
  const clients = [await join(t, service.port), await join(t, service.port)]
  const silent = await joinBare(t, service.port)
  service.send('close')
  for (const { left } of clients) t.match(await left, GOING_AWAY, 'at once, whatever the pace')
  t.not(await silent.ended, 'closed')
  await service.message(({ closed }) => closed)
  const { code, signal, report, lines } = await service.exited
  t.strictSame([code, signal], [0, null], 'the process is not ours to end')
  t.match(report, { reason: 'fastify.close()', exitCode: 1, cutCount: 1, cut: [{ kind: 'websocket', name: 'WebSocket /chat' }] })
  t.ok(report?.durations.totalMs >= PATIENT_GRACE_MS)
  t.ok(report?.durations.totalMs < 15_000)
  t.ok(lines.some(hasClosed))
})

t.test('500 clients are told, and none is cut', beside(), async t => {
  const service = await start(t, 'process-websocket', { env: { ...PATIENT, FARGATE_STOP_TIMEOUT: '60', FARGATE_CLOSE_RESERVE: '30' } })
  const clients: Client[] = []
  while (clients.length < 500) clients.push(...await Promise.all(Array.from({ length: 50 }, async () => await join(t, service.port))))
  service.kill('SIGTERM')
  const codes = await Promise.all(clients.map(async ({ left }) => (await left).code))
  t.strictSame([...new Set(codes)], [1001])
  t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0, cut: [], cutCount: 0 } })
})

t.test('a client that reads slowly gets all that was sent, and then the close frame, also on the second listener of localhost', beside(), async t => {
  const service = await start(t, 'process-websocket', { env: { ...NO_WAIT, FARGATE_STOP_TIMEOUT: '60', FARGATE_CLOSE_RESERVE: '30' }, args: ['localhost'] })
  const clients = [await join(t, service.port, '/flood'), await join(t, service.port, '/flood', '127.0.0.2')]
  for (const { ws } of clients) ws.pause()
  service.kill('SIGTERM')
  await service.line(isClosing)
  // One after the other: the first one must not keep the process for the second.
  for (const client of clients) {
    client.ws.resume()
    t.match(await client.left, GOING_AWAY)
    t.equal(client.messages.length, 32)
  }
  t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0, cut: [], errors: [] } })
})

t.test('injectWS() of @fastify/websocket, which makes requests without a socket, works as ever', beside(), async t => {
  const service = await start(t, 'process-websocket', { args: ['inject'], ready: false })
  const came = await Promise.race([service.message(({ injected }) => injected), service.line(({ level }) => level >= 50), service.exited])
  t.strictSame(came, { injected: 'echo: hello' })
  service.send('close')
  await service.message(({ closed }) => closed)
  t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0, cut: [] } })
})
