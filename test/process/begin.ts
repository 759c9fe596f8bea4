// `fastify.shutdown.begin(reason)`: the stop without a signal.

import t from 'tap'
import { beside, connect, hasClosed, isClosing, NO_WAIT } from '../fixtures/process-client.js'
import { start, type Owner, type Service } from '../support/service.js'

t.jobs = 3

async function begun (t: Owner, args: string[] = [], env: Record<string, string> = NO_WAIT): Promise<{ service: Service, wire: Awaited<ReturnType<typeof connect>> }> {
  const service = await start(t, 'process-begin', { args, env, coverage: false })
  const wire = (await connect(t, service.port)).get('/held')
  await service.message(({ held }) => held === 'request')
  void (await connect(t, service.port)).get('/begin')
  return { service, wire }
}

t.test('begin(reason) resolves with the report and leaves the process alone', beside(), async t => {
  const { service, wire } = await begun(t)
  await service.line(isClosing)
  service.send('request')
  t.equal(await wire.ended, 'FIN')
  t.match(wire.text, /answer$/)
  const { report, isSame, before, after } = await service.message(({ report }) => report !== undefined)
  t.match(report, { reason: 'a deployment by hand', exitCode: 0, cut: [], errors: [] })
  t.ok(isSame, 'a second call resolves with the same report')
  t.strictSame(after, before, 'no listener is left')
  const { code, signal, lines } = await service.exited
  t.strictSame([code, signal], [0, null])
  t.equal(lines.at(-1)?.msg, 'the process lives')
  t.ok(lines.some(hasClosed))
})

t.test('begin(reason, { exit: true }) ends the process', beside(), async t => {
  const { service, wire } = await begun(t, ['exit'])
  await service.line(isClosing)
  service.send('request')
  t.equal(await wire.ended, 'FIN')
  const { code, signal, report, lines } = await service.exited
  t.strictSame([code, signal], [0, null])
  t.match(report, { reason: 'a deployment by hand', exitCode: 0 })
  t.ok(lines.at(-1)?.report, 'the report is the last line')
})

t.test('a SIGTERM in the middle of begin(reason) makes the process end with the same stop', beside(), async t => {
  const { service, wire } = await begun(t)
  await service.line(isClosing)
  service.kill('SIGTERM')
  service.send('request')
  t.equal(await wire.ended, 'FIN')
  t.match(wire.text, /answer$/)
  const { code, signal, report, lines } = await service.exited
  t.strictSame([code, signal], [0, null])
  t.match(report, { reason: 'a deployment by hand', exitCode: 0 })
  t.equal(lines.filter(({ report }) => report).length, 1, 'and one report')
})
