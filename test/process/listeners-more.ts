// The other ways to listen: a second port, a server of the application's own, a Unix socket.

import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { connect as open, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect as openTls } from 'node:tls'
import t, { type Test } from 'tap'
import {
  beside, connect, hasClosed, isClosing, isDraining, LONG_WAIT, names, NO_WAIT, SHORT, SHORT_DEADLINE_MS, SHORT_STOP_TIMEOUT_MS, SHORT_STREAM_LIMIT_MS, Wire
} from '../fixtures/process-client.js'
import { start, type Exit, type Service, type StartOptions } from '../support/service.js'

t.jobs = 4

/** A machine may be slow. Less than any deadline of the defaults, so whoever is waited for shows. */
const SOON_MS = 15_000
const CLOSES = /^connection: close\r$/im
const skip = process.platform === 'win32' && 'there are no Unix sockets'

t.test('addServer: what is in flight on the second port is answered and awaited, and idle connections on it hold nothing', beside(), async t => {
  const { service, added } = await startAdded(t, NO_WAIT)
  const idle = [await connect(t, service.port), await connect(t, added), await connect(t, added)]
  for (const wire of idle.slice(0, 2)) await wire.get('/plain/before').seen(/before$/)
  const here = (await connect(t, service.port)).get('/held/here')
  const there = (await connect(t, added)).get('/held/there')
  await holds(service, 'here', 'there')
  service.kill('SIGTERM')
  await service.line(isClosing)
  t.strictSame(await ends(idle), ['FIN', 'FIN', 'FIN'], 'while others are in flight')
  for (const port of [service.port, added]) await t.rejects(connect(t, port), { message: 'no connection: ECONNREFUSED' })
  service.send('here')
  t.equal(await here.ended, 'FIN')
  t.notOk(service.lines.some(hasClosed), 'onClose waits for the other port')
  service.send('there')

  t.equal(await there.ended, 'FIN')
  for (const [name, { text }] of [['here', here], ['there', there]] as const) {
    t.match(text, new RegExp(`^HTTP/1\\.1 200 [^]*\r\nconnection: close\r\n[^]*${name} is answered$`, 'i'))
  }
  const exit = await service.exited
  endedWell(t, exit, { inFlightAtSignal: 2, servedWhileDraining: 0 })
  t.ok(exit.lines.some(hasClosed), 'onClose has run')
})

t.test('addServer: while draining both ports serve, and readiness says 503 on both', beside(), async t => {
  const { service, added } = await startAdded(t, LONG_WAIT)
  const ports = [service.port, added]
  for (const port of ports) {
    const probe = (await connect(t, port)).get('/health/ready', 'Connection: close\r\n')
    t.equal(await probe.ended, 'FIN')
    t.strictSame(probe.statuses, [200], 'before the signal it is ready')
  }
  const kept = await Promise.all(ports.map(async port => await connect(t, port)))
  for (const wire of kept) await wire.get('/plain/before').seen(/before$/)
  const silent = await Promise.all(ports.map(async port => await connect(t, port)))
  service.kill('SIGTERM')
  await service.line(isDraining)
  for (const wire of kept) wire.get('/plain/old')
  const fresh = await Promise.all(ports.map(async port => (await connect(t, port)).get('/plain/fresh')))
  t.strictSame(await ends([...kept, ...fresh]), ['FIN', 'FIN', 'FIN', 'FIN'])
  t.strictSame([...kept, ...fresh].map(({ statuses }) => statuses), [[200, 200], [200, 200], [200], [200]])
  for (const { text } of [...kept, ...fresh]) t.match(text, CLOSES)
  for (const port of ports) {
    const probe = (await connect(t, port)).get('/health/ready')
    t.equal(await probe.ended, 'FIN')
    t.match(probe.text, /^HTTP\/1\.1 503 [^]*draining/)
  }
  for (const wire of silent) wire.get('/plain/silent')
  t.strictSame(await ends(silent), ['FIN', 'FIN'])
  t.strictSame(silent.flatMap(({ statuses }) => statuses), [200, 200], 'no idle connection was ended')
  t.notOk(service.lines.some(isClosing))

  service.kill('SIGINT')
  endedWell(t, await service.exited, { inFlightAtSignal: 0, servedWhileDraining: 6 })
})

t.test('addServer: onClose waits for a stream and a slow reader on the second port, though fastify.close() knows nothing of them', beside(), async t => {
  const { service, added } = await startAdded(t, NO_WAIT)
  const stream = (await connect(t, added)).get('/stream/s')
  const slow = (await connect(t, added)).get('/buffer')
  await slow.seen(/\r\n\r\n/)
  slow.socket.pause()
  await stream.seen(/begun/)
  service.kill('SIGTERM')
  await service.line(isClosing)
  slow.socket.on('data', () => {
    slow.socket.pause()
    setImmediate(() => slow.socket.resume())
  })
  slow.socket.resume()
  t.equal(await slow.ended, 'FIN')
  t.ok(slow.bytes > 50e6, `${slow.bytes} bytes came`)
  t.notOk(service.lines.some(hasClosed), 'a handler may still need what onClose closes')
  service.send('s')

  t.equal(await stream.ended, 'FIN')
  t.match(stream.text, /begun, [^]*ended\r\n0\r\n\r\n$/)
  endedWell(t, await service.exited, { inFlightAtSignal: 2, servedWhileDraining: 0 })
})

t.test('addServer: what never ends on the second port is cut before the stop timeout, and named', beside(), async t => {
  const { service, added } = await startAdded(t, SHORT)
  const wires = [(await connect(t, added)).get('/held/never'), (await connect(t, added)).get('/stream/endless')]
  await Promise.all([holds(service, 'never'), wires[1]!.seen(/begun/)])
  service.kill('SIGTERM')

  t.notOk((await ends(wires)).includes('closed'))
  const { code, signal, report, lines, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [1, null])
  t.ok(exitedAtMs >= SHORT_DEADLINE_MS && exitedAtMs < SHORT_STOP_TIMEOUT_MS, `${exitedAtMs} ms`)
  t.match(report, { exitCode: 1, cutCount: 2, errors: [], cut: [{ kind: 'stream', name: 'GET /stream/:name' }, { kind: 'request', name: 'GET /held/:name' }] })
  t.ok(report?.cut[0].ageMs >= SHORT_STREAM_LIMIT_MS)
  t.ok(lines.some(hasClosed), 'onClose has run')
  t.equal(lines.filter(names).length, 2)
})

for (const [mode, env, moved] of [['closing', NO_WAIT, isClosing], ['draining', LONG_WAIT, isDraining]] as const) {
  t.test(`${mode}: a server of serverFactory is let go as Fastify's own, also what its front answers without Fastify`, beside(), async t => {
    const service = await start(t, 'process-listeners', { env, args: ['factory'] })
    await inFlightAndIdle(t, service, mode, moved, async () => await connect(t, service.port), '/front')
  })

  t.test(`${mode}: a Unix socket is a listener like any other`, { ...beside(), skip }, async t => {
    const path = socketPath(t)
    const service = await startUnix(t, path, { env, args: ['unix', path] })
    t.ok(existsSync(path))
    await inFlightAndIdle(t, service, mode, moved, async () => await reach(t, open(path)), '/held/front')
    t.notOk(existsSync(path), 'and it is gone with the process')
  })
}

t.test('TLS handshakes on a Unix socket that are not done hold nothing, though they have no address', { ...beside(), skip }, async t => {
  const path = socketPath(t)
  const env = { ...NO_WAIT, FARGATE_STOP_TIMEOUT: '6', FARGATE_MARGIN: '2' }
  const service = await startUnix(t, path, { env, args: ['unix-tls', path] })
  const wires = await Promise.all([1, 2, 3].map(async () => await reach(t, open(path))))
  // The beginning of a ClientHello.
  for (const { socket } of wires) socket.write(Buffer.from('16030100fa01', 'hex'))
  // Whoever is answered after the others have come has come after them in the server, too.
  await (await reach(t, openTls({ path, rejectUnauthorized: false }))).get('/plain/last').seen(/last$/)
  service.kill('SIGTERM')
  endedWell(t, await service.exited, { inFlightAtSignal: 0, servedWhileDraining: 0 })
})

async function inFlightAndIdle (
  t: Test, service: Service, mode: string, moved: typeof isClosing, join: () => Promise<Wire>, front: string
): Promise<void> {
  const [held, other, kept, silent, half] = [(await join()).get('/held/h'), (await join()).get(front), await join(), await join(), await join()]
  await kept.get('/plain/before').seen(/before$/)
  half.socket.write('GET /plain/half HTTP/1.1\r\nHost: x\r\n')
  await holds(service, 'h', 'front')
  service.kill('SIGTERM')
  await service.line(moved)
  let served = 0
  if (mode === 'draining') {
    const fresh = (await join()).get('/plain/fresh')
    t.equal(await fresh.ended, 'FIN')
    half.socket.write('\r\n')
    kept.get('/plain/old')
    t.strictSame(await ends([half, kept]), ['FIN', 'FIN'])
    t.strictSame([fresh, half, kept].map(({ statuses }) => statuses), [[200], [200], [200, 200]])
    for (const { text } of [fresh, half, kept]) t.match(text, CLOSES)
    const probe = (await join()).get('/health/ready')
    t.equal(await probe.ended, 'FIN')
    t.strictSame(probe.statuses, [503])
    served = 3
    t.notOk(silent.socket.readableEnded, 'no idle connection is ended')
    service.kill('SIGINT')
    await service.line(isClosing)
  }
  t.strictSame(await ends([kept, silent, half]), ['FIN', 'FIN', 'FIN'])
  t.notOk(service.lines.some(hasClosed), 'onClose waits')
  service.send('h')
  service.send('front')

  t.strictSame(await ends([held, other]), ['FIN', 'FIN'])
  t.match(held.text, /^HTTP\/1\.1 200 [^]*h is answered$/)
  t.match(other.text, /^HTTP\/1\.1 200 [^]*answered/)
  for (const { text } of [held, other]) t.match(text, CLOSES)
  const exit = await service.exited
  endedWell(t, exit, { inFlightAtSignal: 2, servedWhileDraining: served })
  t.ok(exit.lines.some(hasClosed), 'onClose has run')
}

async function startAdded (t: Test, env: Record<string, string>): Promise<{ service: Service, added: number }> {
  const service = await start(t, 'process-listeners', { env, args: ['added'] })
  const { added } = await service.message(({ added }) => added !== undefined)
  return { service, added }
}

async function startUnix (t: Test, path: string, options: StartOptions): Promise<Service> {
  const service = await start(t, 'process-listeners', { ...options, ready: false })
  await service.message(message => message.path === path)
  return service
}

async function reach (t: Test, socket: Socket): Promise<Wire> {
  const wire = new Wire(socket)
  t.teardown(() => { socket.destroy() })
  await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject))
  return wire
}

/** Not `t.testdir()`, whose paths are longer than the 107 bytes that a socket's may have. */
function socketPath (t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'fargate-'))
  t.teardown(() => { rmSync(folder, { recursive: true }) })
  return join(folder, 'http.sock')
}

async function ends (wires: Wire[]): Promise<string[]> {
  return await Promise.all(wires.map(({ ended }) => ended))
}

/** Resolves when each of these handlers waits. */
async function holds (service: Service, ...names: string[]): Promise<void> {
  await Promise.all(names.map(async name => await service.message(({ held }) => held === name)))
}

function endedWell (t: Test, { code, signal, report, exitedAtMs, stderr }: Exit, requests: object): void {
  t.strictSame([code, signal], [0, null])
  t.match(report, { exitCode: 0, cutCount: 0, errors: [], requests })
  t.strictSame(report?.cut, [])
  t.ok(exitedAtMs < SOON_MS, 'and nothing was waited for')
  t.notMatch(stderr, /Error/)
}
