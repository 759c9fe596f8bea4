// Somebody else listens for SIGTERM as well.

import t from 'tap'
import { beside, connect, hasClosed, isClosing, NO_WAIT } from '../fixtures/process-client.js'
import { start, type Line } from '../support/service.js'

t.jobs = 3

const warns = ({ level, msg }: Line): boolean => level === 40 && /other SIGTERM listener/.test(msg)

t.test('alone nobody is warned about', beside(), async t => {
  const service = await start(t, 'process-neighbour', { env: NO_WAIT, coverage: false })
  service.kill('SIGTERM')
  const { code, lines } = await service.exited
  t.equal(code, 0)
  t.strictSame(lines.filter(({ level }) => level > 30), [])
})

t.test('another SIGTERM listener is warned about, with what to do', beside(), async t => {
  const service = await start(t, 'process-neighbour', { env: NO_WAIT, args: ['listener'], coverage: false })
  t.match((await service.line(warns)).msg, /1 other SIGTERM listener is installed.*Start the service with node, and remove other signal handlers/)
  service.kill('SIGTERM')
  t.match(await service.exited, { code: 0, signal: null, report: { reason: 'SIGTERM', exitCode: 0 } })
})

t.test('beside close-with-grace, which calls fastify.close() at once, the request in flight is served', beside(), async t => {
  const service = await start(t, 'process-neighbour', { env: { ...NO_WAIT, FARGATE_DEREGISTRATION: 'delay' }, args: ['grace'], coverage: false })
  t.ok(await service.line(warns))
  const wire = (await connect(t, service.port)).get('/held')
  await service.message(({ held }) => held === 'request')
  service.kill('SIGTERM')
  await service.line(({ level, msg }) => level === 40 && /fastify\.close\(\) was called by the application while draining/.test(msg))
  service.send('request')
  t.equal(await wire.ended, 'FIN')
  t.match(wire.text, /^HTTP\/1\.1 200 [^]*answer$/)
  const { code, signal, lines } = await service.exited
  t.strictSame([code, signal], [0, null])
  t.ok(lines.some(hasClosed))
  t.notOk(lines.some(isClosing), 'the drain was over before')
})
