// `fastify.close()` without any stop: tests and scripts do that.

import t from 'tap'
import { beside, connect, hasClosed } from '../fixtures/process-client.js'
import { start } from '../support/service.js'

t.jobs = 4

// Were a timer of the stop left behind, the process would live as long.
const env = { FARGATE_STOP_TIMEOUT: '120', FARGATE_DEREGISTRATION_DELAY: '60' }

t.test('15 instances in a row leave nothing on process, no handle, no warning, and never call exit', beside(), async t => {
  const service = await start(t, 'process-plainclose', { env, ready: false, coverage: false })
  const { code, signal, exitedAtMs, stderr } = await service.exited
  t.strictSame([code, signal], [0, null])
  t.ok(exitedAtMs < 40_000, 'the process ended by itself')
  const { messages } = service
  t.strictSame(messages.filter(({ exitCalled, warning }) => exitCalled ?? warning), [])
  t.equal(stderr, '')
  t.strictSame(messages.filter(({ body }) => body), Array.from({ length: 15 }, () => ({ body: 'ok', joined: 1, state: 'closed' })))
  const { before, after } = messages.at(-1)
  t.strictSame(after, before)
})

// 0 is Fastify's word for no limit.
for (const pluginTimeout of ['10000', '0']) {
  t.test(`an in-flight keep-alive request is answered, hooks are awaited, and close() does not hang on the connection (pluginTimeout ${pluginTimeout})`, beside(), async t => {
    const service = await start(t, 'process-closer', { env, args: [pluginTimeout], coverage: false })
    const idle = (await connect(t, service.port)).get('/idle')
    await idle.seen(/idle$/)
    const wire = (await connect(t, service.port)).get('/held')
    await service.message(({ held }) => held === 'request')
    service.send('close')
    await service.message(({ held }) => held === 'hook')
    t.equal(await idle.ended, 'FIN')
    t.notOk(service.lines.some(hasClosed))
    service.send('hook')
    service.send('request')

    t.equal(await wire.ended, 'FIN')
    t.match(wire.text, /^HTTP\/1\.1 200 [^]*\r\nconnection: close\r\n[^]*answer$/i)
    const { code, signal, report, lines, exitedAtMs } = await service.exited
    t.strictSame([code, signal], [0, null])
    t.ok(exitedAtMs < 40_000, 'plain Fastify hangs for 72 s')
    t.ok(lines.some(hasClosed))
    t.match(report, { reason: 'fastify.close()', exitCode: 0, cut: [], errors: [] })
    const { before, after } = service.messages.at(-1)
    t.strictSame(after, before, 'no listener is left')
  })
}

t.test('a hook that outlasts pluginTimeout is named in the report', beside(), async t => {
  const service = await start(t, 'process-closer', { env, args: ['1000'], coverage: false })
  service.send('close')
  const { report } = await service.exited
  t.match(report, { reason: 'fastify.close()', exitCode: 1 })
  t.match(JSON.stringify([report?.cut, report?.errors]), /onClosing hook flushMetrics/)
})
