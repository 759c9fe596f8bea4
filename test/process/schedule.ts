// Scheduled jobs of @fastify/schedule, which is no help at a stop by itself: real timers, real SIGTERM.

import t from 'tap'
import { beside, isDraining, names, SHORT_DEADLINE_MS, SHORT_STOP_TIMEOUT_MS } from '../fixtures/process-client.js'
import { start, type Line } from '../support/service.js'

t.jobs = 6

/** The same deadline as `SHORT`, but with the default strategy: nothing but health routes is served, so nobody waits. */
const SHORT = { FARGATE_STOP_TIMEOUT: '3', FARGATE_MARGIN: '1' }
const hasClosed = ({ msg }: Line): boolean => msg === 'the pool has closed'

const KINDS = [
  'simple before', 'timed before', 'long before', 'cron before',
  'sync after', 'overlapping after 1', 'overlapping after 2', 'long after', 'cron after'
]

t.test('jobs of every kind that run are awaited, and then the pool that they use is closed', beside(), async t => {
  const service = await start(t, 'process-schedule', { args: ['kinds'] })
  await Promise.all(KINDS.map(name => service.message(({ held }) => held === name)))
  service.kill('SIGTERM')
  await service.line(isDraining)
  for (const name of KINDS) {
    t.notOk(service.lines.some(hasClosed), `the pool is open for ${name}`)
    service.send(name)
    await service.line(({ ended }) => ended === name)
  }
  const exit = await service.exited
  t.match(exit, {
    code: 0,
    signal: null,
    report: { exitCode: 0, drainEnded: 'nothing is served here but the health routes', cut: [], errors: [] }
  })
  t.strictSame(exit.lines.filter(({ ended }) => ended !== undefined).map(({ ended, isPoolOpen }) => [ended, isPoolOpen]), KINDS.map(name => [name, true]))
  t.ok(exit.lines.findIndex(hasClosed) > exit.lines.findLastIndex(({ ended }) => ended !== undefined))
})

t.test('without the adapter the pool is closed under a job that runs, the job is lost, and nobody says so', beside(), async t => {
  const service = await start(t, 'process-schedule', { args: ['without'] })
  await service.message(({ held }) => held === 'the job')
  service.kill('SIGTERM')
  const exit = await service.exited
  t.match(exit, { code: 0, signal: null, report: { exitCode: 0, cut: [], errors: [] } })
  t.ok(exit.lines.some(hasClosed))
  t.notOk(exit.lines.some(({ ended }) => ended === 'the job'))
})

t.test('while draining no run begins: not by a timer, not by hand, and not of a job that is added or started then', beside(), async t => {
  const service = await start(t, 'process-schedule', { args: ['late'] })
  await service.message(({ held }) => held === 'the job')
  await service.line(({ ran }) => ran === 'cron')
  service.kill('SIGTERM')
  await service.line(isDraining)
  service.send('late')
  await service.message(({ late }) => late === 'done')
  service.send('the job')
  const exit = await service.exited
  t.match(exit, { code: 0, signal: null, report: { exitCode: 0, cut: [], errors: [] } })
  t.ok(exit.lines.some(({ ran }) => ran === 'stopped'), 'it did run before')
  const since = exit.lines.slice(exit.lines.findIndex(isDraining))
  t.ok(since.some(({ msg }) => msg === 'the late ones begin'))
  t.strictSame(since.filter(({ ran }) => ran !== undefined), [])
})

t.test('a job that hangs is named at the deadline, by its own name or by that of its task', beside(), async t => {
  const service = await start(t, 'process-schedule', { env: SHORT, args: ['hang'] })
  await service.message(({ held }) => held === 'the task')
  await service.message(({ held }) => held === 'anonymous')
  service.kill('SIGTERM')
  const exit = await service.exited
  t.match(exit, { code: 1, signal: null, report: { exitCode: 1, errors: [] } })
  t.strictSame(exit.report?.cut.map(({ kind, name }: Line) => [kind, name]), [['job', 'job nightly'], ['job', 'job anonymous']])
  t.match(exit.lines.find(names), { level: 50, holders: [{ name: 'job nightly' }, { name: 'job anonymous' }] })
  t.ok(exit.exitedAtMs >= SHORT_DEADLINE_MS, 'not before')
  t.ok(exit.exitedAtMs < SHORT_STOP_TIMEOUT_MS, 'and before the stop timeout')
})

t.test('a job that fails during the stop makes the exit code 1, and is named', beside(), async t => {
  const service = await start(t, 'process-schedule', { args: ['fail'] })
  await service.message(({ held }) => held === 'async')
  await service.message(({ held }) => held === 'sync')
  service.kill('SIGTERM')
  await service.line(isDraining)
  service.send('async')
  await service.line(({ handled }) => handled === 'async has failed')
  service.send('sync')
  const exit = await service.exited
  t.match(exit, {
    code: 1,
    signal: null,
    report: { exitCode: 1, cut: [], errors: [{ where: 'job async', message: 'async has failed' }, { where: 'job named', message: 'sync has failed' }] }
  })
  t.equal(exit.report?.errors.length, 2)
  t.ok(exit.lines.some(hasClosed), 'the rest is done')
})

t.test('a handler is told when draining begins, and when to give up', beside(), async t => {
  const service = await start(t, 'process-schedule', { env: SHORT, args: ['signals'] })
  t.equal((await service.message(({ held }) => held === 'the job')).remaining, 'Infinity')
  service.kill('SIGTERM')
  const exit = await service.exited
  t.match(exit, { code: 0, signal: null, report: { exitCode: 0, cut: [], errors: [] } })
  const told = exit.lines.filter(({ aborted }) => aborted !== undefined)
  t.strictSame(told.map(({ aborted }) => aborted), ['signal', 'abortSignal'])
  t.ok(told[0]?.['remaining'] > 0 && told[0]?.['remaining'] <= SHORT_DEADLINE_MS)
  t.equal(told[1]?.['isPoolOpen'], true)
  t.ok(exit.exitedAtMs >= SHORT_DEADLINE_MS - 250, 'at the abort mark')
})
