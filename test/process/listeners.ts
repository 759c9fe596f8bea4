// Every listener of an instance counts: `localhost` may be two.

import t from 'tap'
import { beside, connect, hasClosed, isClosing, isDraining, LONG_WAIT, NO_WAIT } from '../fixtures/process-client.js'
import { start } from '../support/service.js'

t.jobs = 3

// Other systems have no 127.0.0.2 until they are given one.
const skip = process.platform !== 'linux' && 'a second loopback address is needed'
if (skip !== false) console.warn(`NOT TESTED with two listeners: ${skip}`)

t.test('a request on the second listener of localhost is answered and awaited', { ...beside(), skip }, async t => {
  const service = await start(t, 'process-localhost', { env: NO_WAIT })
  const { addresses } = await service.message(({ addresses }) => addresses !== undefined)
  t.strictSame(addresses.sort(), ['127.0.0.1', '127.0.0.2'])
  const idle = (await connect(t, service.port, '127.0.0.2')).get('/idle')
  await idle.seen(/idle$/)
  const wire = (await connect(t, service.port, '127.0.0.2')).get('/held')
  await service.message(({ held }) => held === 'request')
  service.kill('SIGTERM')
  await service.line(isClosing)
  t.equal(await idle.ended, 'FIN', 'an idle connection on it is let go')
  t.notOk(service.lines.some(hasClosed), 'onClose waits')
  service.send('request')

  t.equal(await wire.ended, 'FIN')
  t.match(wire.text, /^HTTP\/1\.1 200 [^]*\r\nconnection: close\r\n[^]*answer$/i)
  t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0, cut: [], requests: { inFlightAtSignal: 1 } } })
})

t.test('a stream on the second listener goes on to its end', { ...beside(), skip }, async t => {
  const service = await start(t, 'process-localhost', { env: NO_WAIT })
  const wire = (await connect(t, service.port, '127.0.0.2')).get('/stream')
  await wire.seen(/begun/)
  service.kill('SIGTERM')
  await service.line(isClosing)
  service.send('stream')
  t.equal(await wire.ended, 'FIN')
  t.match(wire.text, /ended\r\n0\r\n\r\n$/)
  t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0, cut: [] } })
})

t.test('while draining both listeners accept', { ...beside(), skip }, async t => {
  const service = await start(t, 'process-localhost', { env: LONG_WAIT })
  await (await connect(t, service.port)).get('/idle').seen(/idle$/)
  service.kill('SIGTERM')
  await service.line(isDraining)
  for (const host of ['127.0.0.1', '127.0.0.2']) {
    const wire = (await connect(t, service.port, host)).get('/idle')
    t.equal(await wire.ended, 'FIN')
    t.match(wire.statuses, [200])
  }
  service.kill('SIGINT')
  t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0, requests: { servedWhileDraining: 2 } } })
})
