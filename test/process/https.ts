// HTTP/1.1 over TLS: the same rules as without it, and a handshake before them.

import { connect as openTls } from 'node:tls'
import t, { type Test } from 'tap'
import {
  beside, connect, hasClosed, isClosing, isDraining, LONG_WAIT, names, NO_WAIT, SHORT, SHORT_DEADLINE_MS, SHORT_STOP_TIMEOUT_MS, SHORT_STREAM_LIMIT_MS,
  Wire
} from '../fixtures/process-client.js'
import { connectTls, HALF_A_HELLO, holds } from '../fixtures/process-http2client.js'
import { cert } from '../support/certificate.js'
import { start, type Exit } from '../support/service.js'

/** A machine may be slow. Less than any deadline of the defaults, so whoever is waited for shows. */
const SOON_MS = 15_000
// Other systems have no 127.0.0.2 until they are given one.
const skip = process.platform !== 'linux' && 'a second loopback address is needed'

t.jobs = 3

t.test('requests in flight are answered with connection: close; idle connections go before them', beside(), async t => {
  const service = await start(t, 'process-http2', { env: NO_WAIT, args: ['https'] })
  const wires = await Promise.all([1, 2, 3, 4, 5].map(async () => await connectTls(t, service.port)))
  const [idle, silent, half, held, stream] = wires as [Wire, Wire, Wire, Wire, Wire]
  await idle.get('/plain/idle').seen(/idle$/)
  half.socket.write('GET /plain/half HTTP/1.1\r\nHos')
  held.get('/held/h')
  stream.get('/stream/s')
  await holds(service, 'h', 's')
  await stream.seen(/begun/)
  service.kill('SIGTERM')

  t.strictSame([await idle.ended, await silent.ended, await half.ended], ['FIN', 'FIN', 'FIN'])
  t.notOk(service.lines.some(hasClosed), 'onClose waits for those in flight')
  service.send('h')
  service.send('s')
  t.strictSame([await held.ended, await stream.ended], ['FIN', 'FIN'])
  t.match(held.text, /^HTTP\/1\.1 200 OK\r\n(?:[^]*\r\n)?connection: close\r\n[^]*h is answered$/i)
  t.match(stream.text, /begun, [^]*ended\r\n0\r\n\r\n$/, 'with its last chunk')
  const exit = await service.exited
  endedWell(t, exit)
  t.match(exit.report, { requests: { inFlightAtSignal: 2 } })
})

t.test('a handshake that was begun, or not even that, holds nothing, and what follows none costs nobody an answer', beside(), async t => {
  const service = await start(t, 'process-http2', { env: NO_WAIT, args: ['https'] })
  const mute = await connect(t, service.port)
  const begun = await connect(t, service.port)
  begun.socket.write(HALF_A_HELLO)
  const plain = (await connect(t, service.port)).get('/plain/in-plain-text')
  t.ok(await plain.ended)
  const gone = await connect(t, service.port)
  gone.socket.resetAndDestroy()
  const deaf = await connect(t, service.port)
  deaf.socket.write(HALF_A_HELLO)
  deaf.socket.allowHalfOpen = true
  const held = (await connectTls(t, service.port)).get('/held/h')
  await holds(service, 'h')
  service.kill('SIGTERM')

  for (const { ended } of [mute, begun]) t.ok(await ended)
  t.notOk(service.lines.some(hasClosed), 'onClose waits for the request in flight')
  service.send('h')
  t.equal(await held.ended, 'FIN')
  t.match(held.text, /h is answered$/)
  endedWell(t, await service.exited)
})

t.test('while draining a handshake that was begun before the signal is completed, and its request served', beside(), async t => {
  const service = await start(t, 'process-http2', { env: { ...LONG_WAIT, FARGATE_ABORT_GRACE: '20' }, args: ['https'] })
  const early = await connect(t, service.port)
  const kept = await connectTls(t, service.port)
  await kept.get('/plain/before').seen(/before$/)
  const idle = await connectTls(t, service.port)
  service.kill('SIGTERM')
  await service.line(isDraining)
  const wire = new Wire(openTls({ socket: early.socket, servername: 'localhost', ca: cert }))
  wire.get('/plain/early')
  kept.get('/plain/kept')
  const fresh = (await connectTls(t, service.port)).get('/health/ready')

  t.strictSame([await wire.ended, await kept.ended, await fresh.ended], ['FIN', 'FIN', 'FIN'])
  for (const { text } of [wire, kept]) t.match(text, /HTTP\/1\.1 200 OK\r\n(?:[^]*\r\n)?connection: close\r\n[^]*(early|kept)$/i)
  t.match(fresh.text, /^HTTP\/1\.1 503 [^]*draining/, 'and readiness says 503')
  // It has seen the answers of others come and go.
  t.match(await idle.get('/plain/idle').ended, 'FIN')
  t.strictSame(idle.statuses, [200], 'an idle connection is not ended while draining')
  service.kill('SIGINT')
  const exit = await service.exited
  endedWell(t, exit)
  t.match(exit.report, { requests: { inFlightAtSignal: 0, servedWhileDraining: 3 } })
})

for (const route of ['/buffer', '/piped']) {
  t.test(`a reader that is slow gets the whole 20 MB of ${route}, on the second listener of localhost too`, { ...beside(), skip }, async t => {
    const service = await start(t, 'process-http2', { env: NO_WAIT, args: ['https', 'localhost'] })
    const wires = await Promise.all(['127.0.0.1', '127.0.0.2'].map(async host => await connectTls(t, service.port, { host })))
    for (const wire of wires) {
      await wire.get(route).seen(/\r\n\r\n/)
      wire.socket.pause()
    }
    const heads = wires.map(({ text }) => text.indexOf('\r\n\r\n') + 4)
    service.kill('SIGTERM')
    await service.line(isClosing)
    // A little now and then: most of it is in the memory of a server that has begun to close.
    for (const { socket } of wires) {
      socket.on('data', () => {
        socket.pause()
        setImmediate(() => socket.resume())
      })
      socket.resume()
    }

    t.strictSame(await Promise.all(wires.map(({ ended }) => ended)), ['FIN', 'FIN'])
    t.strictSame(wires.flatMap(({ statuses }) => statuses), [200, 200])
    for (const [index, { bytes }] of wires.entries()) {
      if (route === '/buffer') t.equal(bytes, heads[index]! + 20e6)
      else t.ok(bytes > heads[index]! + 20e6, 'with the lengths of its chunks')
    }
    endedWell(t, await service.exited)
  })
}

t.test('a stream without end, and a client that never reads, are cut in time and named', beside(), async t => {
  const service = await start(t, 'process-http2', { env: SHORT, args: ['https'] })
  const stream = (await connectTls(t, service.port)).get('/stream/endless')
  await stream.seen(/begun/)
  const unread = (await connectTls(t, service.port)).get('/buffer')
  await unread.seen(/\r\n\r\n/)
  unread.socket.pause()
  const mute = await connect(t, service.port)
  service.kill('SIGTERM')

  t.not(await stream.ended, 'closed')
  t.ok(await mute.ended)
  const { code, signal, report, lines, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [1, null])
  t.ok(exitedAtMs >= SHORT_DEADLINE_MS, 'the answer has until the deadline')
  t.ok(exitedAtMs < SHORT_STOP_TIMEOUT_MS, 'before the stop timeout')
  t.ok(lines.some(hasClosed), 'onClose has run')
  t.match(report, { exitCode: 1, cutCount: 2, cut: [{ kind: 'stream', name: 'GET /stream/:name' }, { kind: 'response', name: 'GET /buffer' }], errors: [] })
  t.equal(report?.cut.length, 2)
  t.ok(report?.cut[0].ageMs >= SHORT_STREAM_LIMIT_MS, 'not before the limit for streams')
  t.strictSame(lines.filter(names).map(({ holders }) => holders.length), [1, 1], 'each in its own time')
})

function endedWell (t: Test, { code, signal, report, exitedAtMs, stderr }: Exit): void {
  t.strictSame([code, signal], [0, null])
  t.match(report, { exitCode: 0, cutCount: 0, errors: [] })
  t.strictSame(report?.cut, [])
  t.ok(exitedAtMs < SOON_MS, 'and nothing was waited for')
  t.notMatch(stderr, /Error/)
}
