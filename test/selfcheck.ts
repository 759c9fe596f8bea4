import { type IncomingMessage } from 'node:http'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { CHECKED_STATES, selfCheck } from '../lib/selfcheck.js'
import { ManualClock, turnOfEventLoop } from './support/clock.js'

const expected = { code: 503, status: 'draining' } as const

async function check (t: Test, build: (app: FastifyInstance) => void, options: object = {}) {
  const app = Fastify(options)
  build(app)
  await app.ready()
  t.teardown(() => app.close())
  const clock = new ManualClock()
  const marked: IncomingMessage[] = []
  const outcome = selfCheck(app, clock, '/ready', expected, (raw) => { marked.push(raw) }).then(() => 'passed', (error: unknown) => error as { code: string, message: string })
  return { clock, marked, outcome }
}

/** The right answer. */
const right = (app: FastifyInstance) => app.get('/ready', async (_request, reply) => await reply.code(503).send({ status: 'draining' }))

t.test('what is asked for is the answer that brings traffic, and the one that ends it', async (t) => {
  t.strictSame(CHECKED_STATES, ['ready', 'draining'])
})

t.test('the right answer passes, and leaves no timer', async (t) => {
  const { clock, outcome } = await check(t, right)
  t.equal(await outcome, 'passed')
  t.equal(clock.pending, 0)
})

t.test('it asks as an ALB does, and marks its request as made up', async (t) => {
  let seen: unknown
  let raw: unknown
  const { marked, outcome } = await check(t, (app) => {
    app.addHook('onRequest', async (request) => {
      seen = { method: request.method, url: request.url, host: request.host, ip: request.ip, agent: request.headers['user-agent'] }
      raw = request.raw
    })
    right(app)
  })
  t.equal(await outcome, 'passed')
  t.match(seen, { method: 'GET', url: '/ready', host: 'localhost', agent: /^ELB-HealthChecker/ })
  t.strictSame(marked, [raw])
})

t.test('another status is refused, with path, what was wanted and what came', async (t) => {
  const { outcome } = await check(t, (app) => {
    app.addHook('onRequest', async (_request, reply) => await reply.code(401).send({ error: 'who are you?' }))
    right(app)
  })
  t.match(await outcome, {
    code: 'FARGATE_ERR_PROBE_INTERCEPTED',
    message: 'A hook of the application gets at GET /ready: it should answer 503 {"status":"draining"}, but answered 401 {"error":"who are you?"}.'
  })
})

t.test('the right status with another body is refused too', async (t) => {
  const { outcome } = await check(t, (app) => {
    app.addHook('onSend', async () => '{"ok":true}')
    right(app)
  })
  t.match(await outcome, { code: 'FARGATE_ERR_PROBE_INTERCEPTED', message: 'but answered 503 {"ok":true}' })
})

t.test('a long answer is shown in part', async (t) => {
  const { outcome } = await check(t, (app) => { app.get('/ready', async () => 'x'.repeat(5000)) })
  const { message } = await outcome as { message: string }
  t.ok(message.includes('200 ' + 'x'.repeat(196) + '.'), message)
  t.notOk(message.includes('x'.repeat(197)))
})

t.test('a hook that hangs is given five seconds', async (t) => {
  const { clock, outcome } = await check(t, (app) => {
    app.addHook('onRequest', () => {})
    right(app)
  })
  let isDone = false
  void outcome.then(() => { isDone = true })
  await clock.advance(4999)
  t.equal(isDone, false)
  await clock.advance(1)
  t.match(await outcome, { code: 'FARGATE_ERR_PROBE_INTERCEPTED', message: 'but answered nothing within 5 s.' })
  t.equal(clock.pending, 0)
})

for (const [how, error] of [['without', undefined], ['with', new Error('go away')]] as const) {
  t.test(`a hook that cuts the connection, ${how} an error, has got at it as well`, async (t) => {
    const { clock, outcome } = await check(t, (app) => {
      app.addHook('onRequest', async (request, reply) => {
        reply.hijack()
        request.raw.socket.destroy(error)
      })
      right(app)
    })
    await clock.advance(5000)
    t.match(await outcome, { code: 'FARGATE_ERR_PROBE_INTERCEPTED' })
  })
}

t.test('a hook that listens on the socket hears nothing, and does no harm', async (t) => {
  const { outcome } = await check(t, (app) => {
    app.addHook('onRequest', async (request) => {
      request.raw.socket.on('data', (chunk) => { t.fail('there is something', { chunk }) })
      await turnOfEventLoop()
    })
    right(app)
  })
  t.equal(await outcome, 'passed')
})

t.test('rewriteUrl and trustProxy do not confuse it', async (t) => {
  const { outcome } = await check(t, right, { trustProxy: true, rewriteUrl: ({ url }: { url: string }) => url })
  t.equal(await outcome, 'passed')
})
