// Errors that nobody caught: they cost the exit code, and as few requests as the policy allows.

import t from 'tap'
import { beside, connect, isClosing, isDraining, LONG_WAIT, NO_WAIT, type Wire } from '../fixtures/process-client.js'
import { start, type Line, type Owner, type Service } from '../support/service.js'

t.jobs = 4

const NAMES = Array.from({ length: 20 }, (_, index) => `n${index}`)
const failed = (event: string) => ({ level, msg }: Line): boolean => level === 50 && msg.startsWith(`${event}: nobody caught this`)

/** Twenty requests in flight. */
async function underLoad (t: Owner, service: Service): Promise<Wire[]> {
  const wires = await Promise.all(NAMES.map(async name => (await connect(t, service.port)).get(`/held/${name}`)))
  await Promise.all(NAMES.map(async name => { await service.message(({ held }) => held === name) }))
  return wires
}

for (const [path, event] of [['/reject', 'unhandledRejection'], ['/throw', 'uncaughtException']] as const) {
  t.test(`an ${event} in the drain costs the exit code and no request`, beside(), async t => {
    const service = await start(t, 'process-service', { env: LONG_WAIT })
    const wires = await underLoad(t, service)
    service.kill('SIGTERM')
    await service.line(isDraining)
    t.equal(await (await connect(t, service.port)).get(path).ended, 'FIN')
    await service.line(failed(event))
    const late = (await connect(t, service.port)).get('/plain/late')
    t.equal(await late.ended, 'FIN')
    t.match(late.text, /^HTTP\/1\.1 200 [^]*late$/, 'new requests are served as before')
    service.kill('SIGINT')
    await service.line(isClosing)
    for (const name of NAMES) service.send(name)

    t.strictSame([...new Set(await Promise.all(wires.map(({ ended }) => ended)))], ['FIN'])
    for (const { text } of wires) t.match(text, /is answered$/)
    const { code, signal, report } = await service.exited
    t.strictSame([code, signal], [1, null])
    t.match(report, { reason: 'SIGTERM', exitCode: 1, cut: [], errors: [{ where: event, message: /nobody caught/ }] })
    t.equal(report?.errors.length, 1)
  })
}

t.test('crash "close": what is in flight ends, then exit 1; no load balancer is waited for', beside(), async t => {
  const service = await start(t, 'process-service', { env: LONG_WAIT })
  const wires = await underLoad(t, service)
  void (await connect(t, service.port)).get('/throw')
  await service.line(failed('uncaughtException'))
  await service.line(isClosing)
  for (const name of NAMES) service.send(name)

  t.strictSame([...new Set(await Promise.all(wires.map(({ ended }) => ended)))], ['FIN'])
  for (const { text } of wires) t.match(text, /is answered$/)
  const { code, signal, report, lines } = await service.exited
  t.strictSame([code, signal], [1, null])
  t.match(report, { reason: 'uncaughtException', exitCode: 1, cut: [], errors: [{ where: 'uncaughtException' }] })
  t.notOk(lines.some(isDraining))
})

t.test('crash "drain": the load balancer is waited for too', beside(), async t => {
  const service = await start(t, 'process-service', { env: { ...LONG_WAIT, FARGATE_CRASH: 'drain' } })
  const wires = await underLoad(t, service)
  void (await connect(t, service.port)).get('/reject')
  await service.line(failed('unhandledRejection'))
  await service.line(isDraining)
  const late = (await connect(t, service.port)).get('/plain/late')
  t.equal(await late.ended, 'FIN')
  t.match(late.text, /^HTTP\/1\.1 200 [^]*late$/, 'new requests are served')
  for (const name of NAMES) service.send(name)
  t.strictSame([...new Set(await Promise.all(wires.map(({ ended }) => ended)))], ['FIN'])
  for (const { text } of wires) t.match(text, /is answered$/)
  t.notOk(service.lines.some(isClosing), 'and it goes on draining')
  service.kill('SIGINT')
  t.match(await service.exited, { code: 1, signal: null, report: { reason: 'unhandledRejection', exitCode: 1, cut: [] } })
})

t.test('crash "exit": exit 1 at once, with the error in the log', beside(), async t => {
  const service = await start(t, 'process-service', { env: { ...LONG_WAIT, FARGATE_CRASH: 'exit' } })
  const wires = await underLoad(t, service)
  void (await connect(t, service.port)).get('/throw')
  const { code, signal, lines, exitedAtMs } = await service.exited
  t.strictSame([code, signal], [1, null])
  t.ok(lines.some(failed('uncaughtException')))
  t.ok(exitedAtMs < 20_000)
  await Promise.all(wires.map(({ ended }) => ended))
  t.strictSame(wires.flatMap(({ statuses }) => statuses), [], 'what was in flight is lost')
})

t.test('an error before the stop signal that the application caught is none', beside(), async t => {
  const service = await start(t, 'process-service', { env: NO_WAIT })
  t.match((await request(t, service, '/none')).statuses, [404])
  service.kill('SIGTERM')
  t.match(await service.exited, { code: 0, signal: null, report: { exitCode: 0 } })
})

async function request (t: Owner, service: Service, path: string): Promise<Wire> {
  const wire = (await connect(t, service.port)).get(path, 'Connection: close\r\n')
  await wire.ended
  return wire
}
