// What becomes of a request that is under way when the stop signal comes.

import t from 'tap'
import {
  beside, connect, hasClosed, isClosing, isDraining, LONG_WAIT, names, NO_WAIT, SHORT, SHORT_DEADLINE_MS, SHORT_STOP_TIMEOUT_MS
} from '../fixtures/process-client.js'
import { start } from '../support/service.js'

t.jobs = 4

t.test('a keep-alive request in flight is answered, and its connection ends with its last byte', beside(), async t => {
  const service = await start(t, 'process-service', { env: NO_WAIT })
  const wire = (await connect(t, service.port)).get('/held/a')
  await service.message(({ held }) => held === 'a')
  service.kill('SIGTERM')
  await service.line(isClosing)
  t.notOk(service.lines.some(hasClosed), 'onClose waits for it')
  service.send('a')

  // Plain Fastify: keep-alive, and close() hangs on the connection for 72 s.
  t.equal(await wire.ended, 'FIN')
  t.match(wire.text, /^HTTP\/1\.1 200 OK\r\n(?:[^]*\r\n)?connection: close\r\n[^]*a is answered$/i)
  const { code, signal, report, lines, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [0, null])
  t.ok(lines.some(hasClosed), 'onClose has run')
  t.match(report, { reason: 'SIGTERM', exitCode: 0, cut: [], errors: [], requests: { inFlightAtSignal: 1 } })
  t.ok(exitedAtMs < 20_000, 'and nothing was waited for')
})

t.test('a stream that has begun goes on to its end', beside(), async t => {
  const service = await start(t, 'process-service', { env: NO_WAIT })
  const wire = (await connect(t, service.port)).get('/stream/s')
  await wire.seen(/begun/)
  service.kill('SIGTERM')
  await service.line(isClosing)
  service.send('s')

  t.equal(await wire.ended, 'FIN')
  t.match(wire.text, /begun, [^]*ended\r\n0\r\n\r\n$/, 'with its last chunk')
  t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0, cut: [] } })
})

for (const route of ['/buffer', '/piped']) {
  t.test(`a reader that is slow gets the whole 50 MB of ${route}`, beside(), async t => {
    const service = await start(t, 'process-service', { env: NO_WAIT })
    const wire = (await connect(t, service.port)).get(route)
    await wire.seen(/\r\n\r\n/)
    wire.socket.pause()
    service.kill('SIGTERM')
    await service.line(isClosing)
    // A little now and then: most of it is in the memory of a server that has begun to close.
    wire.socket.on('data', () => {
      wire.socket.pause()
      setImmediate(() => wire.socket.resume())
    })
    wire.socket.resume()

    t.equal(await wire.ended, 'FIN')
    t.match(wire.statuses, [200])
    t.ok(wire.bytes > 50e6, `${wire.bytes} bytes came`)
    t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0, cut: [] } })
  })
}

t.test('an upload of which half was sent is read to its end, and answered', beside(), async t => {
  const service = await start(t, 'process-service', { env: NO_WAIT })
  const wire = await connect(t, service.port)
  wire.socket.write('POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\n' + 'u'.repeat(50_000))
  await service.message(({ arrived }) => arrived === '/upload')
  service.kill('SIGTERM')
  await service.line(isClosing)
  wire.socket.write('u'.repeat(50_000))

  t.equal(await wire.ended, 'FIN')
  t.match(wire.text, /^HTTP\/1\.1 200 OK[^]*got 100000$/)
  t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0, cut: [] } })
})

for (const [route, body] of [['/hijack/h', 'hijacked'], ['/raw/h', 'raw']] as const) {
  t.test(`an answer past Fastify (${route}) whose headers come after the signal says connection: close`, beside(), async t => {
    const service = await start(t, 'process-service', { env: NO_WAIT })
    const wire = (await connect(t, service.port)).get(route)
    await service.message(({ held }) => held === 'h')
    service.kill('SIGTERM')
    await service.line(isClosing)
    service.send('h')

    t.equal(await wire.ended, 'FIN')
    t.match(wire.text, new RegExp(`^HTTP/1\\.1 200 OK\r\n[^]*connection: close\r\n[^]*${body}`, 'i'))
    t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0, cut: [] } })
  })
}

t.test('requests that were pipelined before the signal are all answered, in order', beside(), async t => {
  const service = await start(t, 'process-service', { env: SHORT })
  const wire = (await connect(t, service.port)).get('/held/first').get('/held/second')
  await service.message(({ held }) => held === 'second')
  service.kill('SIGTERM')
  await service.line(isClosing)
  service.send('second')
  service.send('first')

  t.equal(await wire.ended, 'FIN')
  t.match(wire.text, /first is answered[^]*second is answered$/)
  // Of those that a client pipelined before the signal the last one stands for all.
  t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0, cut: [], requests: { inFlightAtSignal: 1 } } })
})

t.test('a request that was pipelined after the signal is answered, as long as the answer before it has not begun', beside(), async t => {
  const service = await start(t, 'process-service', { env: LONG_WAIT })
  const wire = (await connect(t, service.port)).get('/held/first')
  await service.message(({ held }) => held === 'first')
  service.kill('SIGTERM')
  await service.line(isDraining)
  wire.get('/held/second')
  await service.message(({ held }) => held === 'second')
  service.send('first')
  service.send('second')

  t.equal(await wire.ended, 'FIN')
  t.match(wire.text, /first is answered[^]*second is answered$/)
  service.kill('SIGINT')
  t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0, cut: [] } })
})

t.test('a request after an answer that says connection: close holds nobody up', beside(), async t => {
  const service = await start(t, 'process-service', { env: { ...LONG_WAIT, FARGATE_ABORT_GRACE: '20' } })
  service.kill('SIGTERM')
  await service.line(isDraining)
  const wire = (await connect(t, service.port)).get('/stream/s')
  await wire.seen(/connection: close\r\n[^]*begun/i)
  wire.get('/plain/unasked')
  await service.message(({ arrived }) => arrived === '/plain/unasked')
  service.send('s')
  t.equal(await wire.ended, 'FIN')
  t.match(wire.text, /ended\r\n0\r\n\r\n$/)
  service.kill('SIGINT')
  const { code, signal, report, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [0, null])
  t.match(report, { exitCode: 0, cut: [] })
  t.ok(exitedAtMs < 15_000)
})

t.test('forceCloseConnections: true cuts no request after a stop signal', beside(), async t => {
  const service = await start(t, 'process-service', { env: NO_WAIT, args: ['force'] })
  const wires = [(await connect(t, service.port)).get('/held/a'), (await connect(t, service.port)).get('/stream/s')]
  await service.message(({ held }) => held === 'a')
  await wires[1]!.seen(/begun/)
  service.kill('SIGTERM')
  await service.line(isClosing)
  service.send('a')
  // From here on it is Fastify that closes.
  await service.line(({ msg }) => msg === 'preClose has run')
  service.send('s')

  t.strictSame(await Promise.all(wires.map(({ ended }) => ended)), ['FIN', 'FIN'])
  t.match(wires[0]!.text, /a is answered$/)
  t.match(wires[1]!.text, /ended\r\n0\r\n\r\n$/)
  t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0, cut: [] } })
})

t.test('a request that never ends is cut before the stop timeout and named; all others are served', beside(), async t => {
  const service = await start(t, 'process-service', { env: SHORT })
  const never = (await connect(t, service.port)).get('/held/never?token=secret')
  const other = (await connect(t, service.port)).get('/held/other')
  await service.message(({ held }) => held === 'never')
  await service.message(({ held }) => held === 'other')
  service.kill('SIGTERM')
  await service.line(isClosing)
  service.send('other')
  t.equal(await other.ended, 'FIN')
  t.match(other.text, /other is answered$/)
  await service.message(({ aborted }) => aborted)
  t.notOk(service.lines.some(names), 'abortSignal fires before the deadline')

  t.not(await never.ended, 'closed', 'it is cut')
  t.strictSame(never.statuses, [])
  const { code, signal, report, lines, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [1, null])
  t.ok(exitedAtMs >= SHORT_DEADLINE_MS, 'not before the deadline')
  t.ok(exitedAtMs < SHORT_STOP_TIMEOUT_MS, 'and before the stop timeout')
  t.ok(lines.some(hasClosed), 'onClose has run')
  const named = { kind: 'request', name: 'GET /held/:name', path: '/held/never', requestId: /^req-/, remoteAddress: '127.0.0.1' }
  t.match(report, { exitCode: 1, cut: [named], errors: [] })
  t.equal(report?.cut.length, 1)
  t.ok(report?.cut[0].ageMs >= SHORT_DEADLINE_MS, 'with its age')
  t.match(lines.find(names), { level: 50, holders: [named], msg: /GET \/held\/:name \(req-/ })
  t.notMatch(JSON.stringify(lines.filter(({ holders, report }) => holders ?? report)), /secret/, 'and without its query string')
})

t.test('while draining every request is served, on old and new connections, and each is the last of its connection', beside(), async t => {
  const service = await start(t, 'process-service', { env: LONG_WAIT })
  const old = (await connect(t, service.port)).get('/plain/before')
  await old.seen(/before$/)
  service.kill('SIGTERM')
  await service.line(isDraining)
  old.get('/plain/old')
  const wires = [old, ...await Promise.all(['one', 'two', 'three'].map(async name => (await connect(t, service.port)).get(`/plain/${name}`)))]

  t.strictSame(await Promise.all(wires.map(({ ended }) => ended)), ['FIN', 'FIN', 'FIN', 'FIN'])
  t.strictSame(wires.flatMap(({ statuses }) => statuses), [200, 200, 200, 200, 200])
  for (const { text } of wires) t.match(text, /connection: close/i)
  const probe = (await connect(t, service.port)).get('/health/ready')
  t.equal(await probe.ended, 'FIN')
  t.match(probe.text, /^HTTP\/1\.1 503 [^]*draining/, 'and readiness says 503')
  service.kill('SIGINT')
  t.match(await service.exited, {
    code: 0, signal: null, report: { exitCode: 0, order: 'signal-first', requests: { inFlightAtSignal: 0, servedWhileDraining: 4, lastAfterMs: Number } }
  })
})

t.test('a service that never got a request ends at once, outside ECS', beside(), async t => {
  const service = await start(t, 'process-service', { env: { ECS_CONTAINER_METADATA_URI_V4: undefined, FARGATE_STOP_TIMEOUT: '120' } })
  service.kill('SIGTERM')
  const { code, signal, report, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [0, null])
  t.match(report, { exitCode: 0, drainEnded: /neither a request nor a probe/ })
  t.ok(exitedAtMs < 15_000, 'without waiting the 20 s for a load balancer')
})
