// Connections without a request: who is let go, and when.

import t from 'tap'
import {
  beside, connect, hasClosed, isClosing, isDraining, LONG_WAIT, NO_WAIT, SHORT, SHORT_STOP_TIMEOUT_MS, SHORT_STREAM_LIMIT_MS, type Wire
} from '../fixtures/process-client.js'
import { start } from '../support/service.js'

t.jobs = 3

t.test('2,000 idle keep-alive connections hold nothing', beside(), async t => {
  const service = await start(t, 'process-service', { env: NO_WAIT })
  const wires: Wire[] = []
  // In portions, so that the listen queue holds them.
  while (wires.length < 2000) {
    wires.push(...await Promise.all(Array.from({ length: 100 }, async () => {
      const wire = (await connect(t, service.port)).get('/plain/kept')
      await wire.seen(/kept$/)
      return wire
    })))
  }
  service.kill('SIGTERM')
  const { code, signal, report, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [0, null])
  t.match(report, { exitCode: 0, cut: [], errors: [] })
  t.ok(exitedAtMs < 20_000)
  t.strictSame([...new Set(await Promise.all(wires.map(({ ended }) => ended)))], ['FIN'], 'none was reset')
})

t.test('silence, half a header and the first byte of a second request hold nothing', beside(), async t => {
  const service = await start(t, 'process-service', { env: NO_WAIT })
  const wires = await Promise.all([1, 2, 3, 4].map(async () => await connect(t, service.port)))
  const [, half, second, upload] = wires as [Wire, Wire, Wire, Wire]
  half.socket.write('GET /plain/half HTTP/1.1\r\nHos')
  second.get('/plain/first')
  await second.seen(/first$/)
  second.socket.write('G')
  upload.socket.write('POST /upload HTTP/1.1\r\nHost: x\r\nContent-Le')
  // Whoever is answered after the others have written comes after them in the server, too.
  await (await connect(t, service.port)).get('/plain/last').seen(/last$/)
  service.kill('SIGTERM')

  t.strictSame(await Promise.all(wires.map(({ ended }) => ended)), ['FIN', 'FIN', 'FIN', 'FIN'])
  t.strictSame(wires.map(({ statuses }) => statuses), [[], [], [200], []], 'and nobody got a 503')
  const { code, signal, report, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [0, null])
  t.match(report, { exitCode: 0, cut: [], errors: [] })
  t.ok(exitedAtMs < 20_000)
})

t.test('no idle connection is ended while draining: the load balancer may have a request on the wire', beside(), async t => {
  const service = await start(t, 'process-service', { env: LONG_WAIT })
  const wires = await Promise.all([1, 2, 3].map(async () => await connect(t, service.port)))
  const [silent, half, kept] = wires as [Wire, Wire, Wire]
  await kept.get('/plain/kept').seen(/kept$/)
  half.socket.write('GET /plain/half HTTP/1.1\r\nHost: x\r\n')
  service.kill('SIGTERM')
  await service.line(isDraining)
  // The answer on a new connection shows that the loop of the server has turned since.
  t.equal(await (await connect(t, service.port)).get('/plain/turn').ended, 'FIN')
  silent.get('/plain/silent')
  half.socket.write('\r\n')
  kept.get('/plain/kept')

  t.strictSame(await Promise.all(wires.map(({ ended }) => ended)), ['FIN', 'FIN', 'FIN'])
  t.strictSame(wires.map(({ statuses }) => statuses), [[200], [200], [200, 200]])
  service.kill('SIGINT')
  t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0, requests: { servedWhileDraining: 4 } } })
})

t.test('an upgraded socket is not cut before the preClose hook of its owner', beside(), async t => {
  const service = await start(t, 'process-upgrade', { env: NO_WAIT, args: ['polite'] })
  const wire = await upgraded(await connect(t, service.port))
  const plain = (await connect(t, service.port)).get('/held/a')
  await service.message(({ held }) => held === 'a')
  service.kill('SIGTERM')
  await service.line(isClosing)
  // The request in flight keeps fastify.close() away; the upgraded socket still talks.
  wire.socket.write('still there?')
  await wire.seen(/echo: still there\?/)
  service.send('a')

  t.equal(await plain.ended, 'FIN')
  t.equal(await wire.ended, 'FIN')
  t.match(wire.text, /goodbye$/, 'its owner has the last word')
  t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0, cut: [] } })
})

t.test('an upgraded socket that nobody ends is cut before the stop timeout, and named', beside(), async t => {
  const service = await start(t, 'process-upgrade', { env: SHORT })
  const wire = await upgraded(await connect(t, service.port))
  service.kill('SIGTERM')

  t.not(await wire.ended, 'closed')
  const { code, signal, report, lines, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [1, null])
  t.ok(exitedAtMs >= SHORT_STREAM_LIMIT_MS, 'not before the limit for streams')
  t.ok(exitedAtMs < SHORT_STOP_TIMEOUT_MS, 'and before the stop timeout')
  t.match(report, { exitCode: 1, cutCount: 1, cut: [{ kind: 'connection', name: 'an upgraded connection', remoteAddress: '127.0.0.1' }] })
  t.ok(lines.some(hasClosed), 'onClose has run')
})

async function upgraded (wire: Wire): Promise<Wire> {
  wire.get('/socket', 'Connection: Upgrade\r\nUpgrade: echo\r\n')
  await wire.seen(/^HTTP\/1\.1 101 [^]*\r\n\r\n/)
  return wire
}
