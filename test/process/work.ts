// A worker that ECS stops: its job ends, is named, or ends the process; the load balancer that is not there is not waited for.

import t, { type Test } from 'tap'
import { beside, SHORT, SHORT_DEADLINE_MS, SHORT_STOP_TIMEOUT_MS } from '../fixtures/process-client.js'
import { start } from '../support/service.js'

t.jobs = 4

const ECS = { ECS_CONTAINER_METADATA_URI_V4: 'http://169.254.170.2/v4/x' }

async function stopped (t: Test, deed: string, env: Record<string, string> = ECS) {
  const service = await start(t, 'process-work', { args: [deed], env, coverage: false })
  await service.message(({ held }) => held === 'job')
  service.kill('SIGTERM')
  await service.line(({ msg }) => /^closing, /.test(msg))
  service.send('job')
  return await service.exited
}

t.test('a job ends before its pool is closed; a worker that cannot stop is named', beside(), async t => {
  const exit = await stopped(t, 'end')
  t.match(exit, {
    code: 1, report: { exitCode: 1, drainEnded: 'nothing is served here but the health routes', cut: [], errors: [{ where: 'worker orders: stop', message: 'cannot stop' }] }
  })
  t.equal(exit.report?.errors.length, 1)
  t.strictSame(exit.lines.map(({ msg }) => msg).filter((msg) => /^(the|drained)/.test(msg)), ['drained', 'the job has ended', 'the pool is closed'])
})

t.test('a job that fails is named', beside(), async t => {
  const exit = await stopped(t, 'reject')
  t.match(exit, { code: 1, report: { cut: [], errors: [{}, { where: 'job nightly', message: 'disk full' }] } })
  t.ok(exit.lines.some(({ msg }) => msg === 'the pool is closed'))
})

t.test('a job that hangs is named, and the process ends by itself', beside(), async t => {
  const exit = await stopped(t, 'hang', SHORT)
  t.match(exit, { code: 1, signal: null, report: { cut: [{ kind: 'job', name: 'job nightly' }] } })
  t.ok(exit.exitedAtMs >= SHORT_DEADLINE_MS, 'not before the deadline')
  t.ok(exit.exitedAtMs < SHORT_STOP_TIMEOUT_MS, 'and before the stop timeout')
})

t.test('a job that calls process.exit() is named too, in the last line of the log', beside(), async t => {
  const exit = await stopped(t, 'exit')
  t.match(exit, { code: 3, report: { exitCode: 1, cut: [{ kind: 'job', name: 'job nightly' }] } })
  t.match(exit.lines.at(-2)?.msg, /^the application called process\.exit\(\); cut off: job nightly /)
})
