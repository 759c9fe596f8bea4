// The policy about signals: which one waits, which one hurries, which one ends it.

import t from 'tap'
import { atLeast, beside, connect, hasClosed, isClosing, isDraining, LONG_WAIT, names } from '../fixtures/process-client.js'
import { start, type Line, type Owner, type Service } from '../support/service.js'

t.jobs = 5

const hastens = ({ msg }: Line): boolean => /as a second stop signal/.test(msg)
/** Two signals of one kind within 250 ms are one. */
const ANOTHER_MS = 300
const DELAY_MS = 60_000

/** A service that drains for a minute, with one request in flight: `a`. */
async function draining (t: Owner, env = {}): Promise<{ service: Service, wire: Awaited<ReturnType<typeof connect>> }> {
  const service = await start(t, 'process-service', { env: { ...LONG_WAIT, ...env } })
  const wire = (await connect(t, service.port)).get('/held/a')
  await service.message(({ held }) => held === 'a')
  service.kill('SIGTERM')
  await service.line(isDraining)
  return { service, wire }
}

t.test('a second SIGTERM ends draining and fires abortSignal; with everything ended the exit code is 0', beside(), async t => {
  const { service, wire } = await draining(t, { FARGATE_ABORT_GRACE: '20' })
  await atLeast(ANOTHER_MS)
  t.notOk(service.lines.some(isClosing), 'it drains')
  t.notOk(service.messages.some(({ aborted }) => aborted), 'and nothing is aborted')
  service.kill('SIGTERM')
  await service.message(({ aborted }) => aborted)
  await service.line(isClosing)
  service.send('a')

  t.equal(await wire.ended, 'FIN')
  t.match(wire.text, /a is answered$/)
  const { code, signal, report, lines, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [0, null])
  t.match(report, { reason: 'SIGTERM', exitCode: 0, cut: [], drainEnded: /^SIGTERM came as a second stop signal$/ })
  t.ok(lines.some(hastens))
  t.ok(lines.some(hasClosed))
  t.ok(exitedAtMs < DELAY_MS / 2)
})

t.test('what has not ended abortGrace after a second signal is cut and named', beside(), async t => {
  const { service, wire } = await draining(t, { FARGATE_ABORT_GRACE: '1' })
  service.kill('SIGINT')
  t.not(await wire.ended, 'closed')
  const { code, signal, report, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [1, null])
  t.match(report, { exitCode: 1, cut: [{ name: 'GET /held/:name' }] })
  t.ok(exitedAtMs >= 1000, 'not before')
  t.ok(exitedAtMs < DELAY_MS / 2)
})

t.test('a third signal exits with 1 at once, and names who was left', beside(), async t => {
  const { service } = await draining(t, { FARGATE_ABORT_GRACE: '30' })
  service.kill('SIGINT')
  await service.line(hastens)
  service.kill('SIGTERM')
  const { code, signal, report, lines, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [1, null])
  t.match(report, { exitCode: 1, cut: [{ name: 'GET /held/:name' }] })
  t.match(lines.find(names)?.msg, /SIGTERM came again/)
  t.ok(exitedAtMs < 25_000, 'without the abort grace')
})

t.test('the same signal twice within 250 ms is one signal', beside(), async t => {
  const service = await start(t, 'process-twice', { env: { ...LONG_WAIT, FARGATE_DEREGISTRATION_DELAY: '1' }, coverage: false })
  service.kill('SIGTERM')
  await service.message(({ signals }) => signals === 2)
  const { code, signal, report, lines, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [0, null])
  t.notOk(lines.some(hastens))
  t.match(report, { exitCode: 0, drainEnded: /deregistration delay of 1 s/ })
  t.ok(exitedAtMs >= 1000, 'it drains to the end')
})

t.test('SIGINT waits for no load balancer, and for the requests in flight', beside(), async t => {
  const service = await start(t, 'process-service', { env: LONG_WAIT })
  const wire = (await connect(t, service.port)).get('/held/a')
  await service.message(({ held }) => held === 'a')
  service.kill('SIGINT')
  await service.line(isClosing)
  service.send('a')

  t.equal(await wire.ended, 'FIN')
  t.match(wire.text, /a is answered$/)
  const { code, signal, report, lines, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [0, null])
  t.match(report, { reason: 'SIGINT', exitCode: 0, order: 'unknown', drainEnded: /no wait/ })
  t.notOk(lines.some(isDraining))
  t.ok(exitedAtMs < DELAY_MS / 2)
})

t.test('a second SIGINT exits with 1 at once', beside(), async t => {
  const service = await start(t, 'process-service', { env: LONG_WAIT })
  void (await connect(t, service.port)).get('/held/a')
  await service.message(({ held }) => held === 'a')
  service.kill('SIGINT')
  await service.line(isClosing)
  await atLeast(ANOTHER_MS)
  service.kill('SIGINT')
  const { code, signal, report, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [1, null])
  t.match(report, { reason: 'SIGINT', exitCode: 1, cut: [{ name: 'GET /held/:name' }] })
  t.ok(exitedAtMs < DELAY_MS / 2)
})

t.test('SIGINT after SIGTERM ends draining, and the requests in flight end well', beside(), async t => {
  const { service, wire } = await draining(t, { FARGATE_ABORT_GRACE: '20' })
  service.kill('SIGINT')
  await service.line(isClosing)
  service.send('a')
  t.equal(await wire.ended, 'FIN')
  t.match(wire.text, /a is answered$/)
  t.match(await service.exited, { code: 0, signal: null, report: { reason: 'SIGTERM', exitCode: 0, drainEnded: /^SIGINT came/ } })
})

for (const stopSignal of ['SIGQUIT', 'SIGINT'] as const) {
  t.test(`${stopSignal} drains where it is the stop signal of the image`, beside(), async t => {
    const service = await start(t, 'process-service', {
      env: { ...LONG_WAIT, FARGATE_DEREGISTRATION_DELAY: '0.5', FARGATE_STOP_SIGNAL: stopSignal }
    })
    service.kill(stopSignal)
    await service.line(isDraining)
    const { code, signal, report, exitedAtMs } = await service.exited
    t.strictSame([code, signal], [0, null])
    t.match(report, { reason: stopSignal, exitCode: 0 })
    t.ok(exitedAtMs >= 500)
  })
}
