// BullMQ's own close() waits for ever for a job that hangs, and for a Redis that is gone. The process does not.

import { Queue } from 'bullmq'
import t from 'tap'
import { beside, SHORT, SHORT_DEADLINE_MS, SHORT_STOP_TIMEOUT_MS } from '../fixtures/process-client.js'
import { noRedis, startRedis } from '../support/redis.js'
import { start } from '../support/service.js'

t.jobs = 2

t.test('a job that hangs is named, and the process ends by itself', { skip: noRedis, ...beside() }, async t => {
  const { port } = await startRedis(t)
  const queue = new Queue('orders', { connection: { host: '127.0.0.1', port } })
  t.teardown(() => queue.close())
  const service = await start(t, 'process-bullmq', { env: SHORT, args: [String(port)] })
  await queue.add('order', 'hang')
  await service.message(({ begun }) => begun === 'hang')
  service.kill('SIGTERM')
  const exit = await service.exited
  t.match(exit, { code: 1, signal: null, report: { exitCode: 1 } })
  t.ok(exit.report?.cut.some(({ name }: { name: string }) => name === 'job bullmq orders order'))
  t.ok(exit.exitedAtMs >= SHORT_DEADLINE_MS, 'not before the deadline')
  t.ok(exit.exitedAtMs < SHORT_STOP_TIMEOUT_MS, 'and before the stop timeout')
})

t.test('without a job a Redis that is gone holds nothing beyond the abort mark', { skip: noRedis, ...beside() }, async t => {
  const redis = await startRedis(t)
  const service = await start(t, 'process-bullmq', { env: SHORT, args: [String(redis.port)] })
  await redis.kill()
  service.kill('SIGTERM')
  const exit = await service.exited
  t.match(exit, { code: 0, signal: null, report: { exitCode: 0, cut: [] } })
  t.ok(exit.exitedAtMs < SHORT_STOP_TIMEOUT_MS)
})
