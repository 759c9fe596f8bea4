import { type ServerResponse } from 'node:http'
import rateLimit from '@fastify/rate-limit'
import swagger from '@fastify/swagger'
import t from 'tap'
import { livenessAnswer, readinessAnswer } from '../lib/probes.js'
import { type State } from '../types/index.js'
import { listen, setup, start } from './support/app.js'
import { connect } from './support/client.js'

t.test('the answer of readiness', async (t) => {
  t.test('is 200 in one state only', async (t) => {
    const codes = (['starting', 'ready', 'draining', 'closing', 'closed'] as State[]).map((state) => readinessAnswer(state, true, 9000).code)
    t.strictSame(codes, [503, 200, 503, 503, 503])
  })

  t.test('says failing when the check fails while ready, and only then', async (t) => {
    t.strictSame(readinessAnswer('ready', false, Infinity), { code: 503, status: 'failing' })
    t.strictSame(readinessAnswer('starting', false, Infinity), { code: 503, status: 'starting' })
    t.match(readinessAnswer('draining', false, 1000), { code: 503, status: 'draining' })
  })

  t.test('says when to come back from draining on: whole seconds to the deadline, at least one', async (t) => {
    for (const [ms, retryAfter] of [[28_000, 28], [27_001, 28], [400, 1], [0, 1]] as const) {
      t.equal(readinessAnswer('draining', true, ms).retryAfter, retryAfter, `${ms} ms`)
    }
    t.equal(readinessAnswer('starting', true, Infinity).retryAfter, undefined)
  })
})

t.test('liveness is 200 whatever the state: a failing container health check would have a draining task killed', async (t) => {
  t.strictSame(livenessAnswer, { code: 200, status: 'alive' })
  const { app } = await listen(t, { deregistration: 'delay' })
  t.equal((await app.inject('/health/live')).statusCode, 200)
  void app.shutdown.begin('test')
  const { statusCode, body, headers } = await app.inject('/health/live')
  t.strictSame([statusCode, body, headers['cache-control'], headers['retry-after']], [200, '{"status":"alive"}', 'no-store', undefined])
})

t.test('readiness is 503 while starting, 200 when ready, 503 while draining', async (t) => {
  let open!: () => void
  const opened = new Promise<void>((resolve) => { open = resolve })
  const { app, clock } = await listen(t, { deregistration: 'delay', startup: [{ name: 'gate', check: () => opened }] })
  const ask = async () => {
    const { statusCode, body, headers } = await app.inject('/health/ready')
    t.equal(headers['content-type'], 'application/json; charset=utf-8')
    t.equal(headers['cache-control'], 'no-store')
    return [statusCode, body, headers['retry-after']]
  }
  t.strictSame(await ask(), [503, '{"status":"starting"}', undefined])
  open()
  await clock.settle()
  t.strictSame(await ask(), [200, '{"status":"ready"}', undefined])
  void app.shutdown.begin('test')
  t.strictSame(await ask(), [503, '{"status":"draining"}', '28'])
  await clock.advance(19_500)
  t.strictSame(await ask(), [503, '{"status":"draining"}', '9'])
})

t.test('HEAD is answered as GET is, without the body', async (t) => {
  const { app } = await start(t, {}, { server: { exposeHeadRoutes: false } })
  for (const url of ['/health/ready', '/health/live']) {
    const { statusCode, body, headers } = await app.inject({ method: 'HEAD', url })
    t.equal(statusCode, 200)
    t.equal(body, '')
    t.equal(headers['content-length'], String((await app.inject(url)).body.length))
    t.equal(headers['cache-control'], 'no-store')
  }
})

t.test('on the wire: GET and HEAD, one after the other on one connection', async (t) => {
  const { port } = await listen(t)
  const client = await connect(t, port)
  client.write('HEAD /health/ready HTTP/1.1\r\nHost: x\r\n\r\n')
  await client.until(/\r\n\r\n$/)
  client.get('/health/ready')
  t.match(await client.until(/\{"status":"ready"\}$/), /^HTTP\/1\.1 200 OK[^{]*HTTP\/1\.1 200 OK/)
})

t.test('the answer is out before the next listener of the request; only a readiness check makes it wait', async (t) => {
  let pass!: () => void
  const passed = new Promise<void>((resolve) => { pass = resolve })
  const made = await listen(t, { readiness: () => passed })
  const seen: unknown[] = []
  made.app.server.on('request', ({ url }, res) => { seen.push([url, res.writableEnded]) })
  const client = await connect(t, made.port)
  client.get('/health/live')
  await client.until(/alive/)
  client.get('/health/ready')
  while (seen.length < 2) await made.clock.settle()
  pass()
  await client.until(/\{"status":"ready"\}$/)
  t.strictSame(seen, [['/health/live', true], ['/health/ready', false]])
  const plain = await listen(t)
  plain.app.server.on('request', ({ url }, res) => { seen.push([url, res.writableEnded]) })
  const other = await connect(t, plain.port)
  other.get('/health/ready')
  await other.until(/ready/)
  t.strictSame(seen[2], ['/health/ready', true])
})

t.test('other methods are not answered', async (t) => {
  const { app } = await start(t)
  t.equal((await app.inject({ method: 'POST', url: '/health/ready' })).statusCode, 404)
})

t.test('paths can be others, or none', async (t) => {
  const { app } = await start(t, { readinessPath: '/up', livenessPath: false })
  t.equal((await app.inject('/up')).statusCode, 200)
  for (const url of ['/health/ready', '/health/live']) t.equal((await app.inject(url)).statusCode, 404, url)
  const other = await start(t, { readinessPath: false })
  t.equal((await other.app.inject('/health/ready')).statusCode, 404)
  t.equal((await other.app.inject('/health/live')).statusCode, 200)
})

t.test('probes are not logged, where other requests are', async (t) => {
  const { app, lines } = await start(t, {}, { build: (app) => app.get('/', async () => 'x') })
  lines.length = 0
  await app.inject('/health/ready')
  await app.inject('/health/live')
  await app.inject({ method: 'HEAD', url: '/health/ready' })
  t.strictSame(lines, [])
  await app.inject('/')
  t.ok(lines.length > 0)
})

t.test('@fastify/swagger does not show them, registered before or after', async (t) => {
  for (const order of ['before', 'after']) {
    const made = setup(t)
    if (order === 'before') await made.app.register(swagger, { openapi: {} })
    await made.app.register(made.plugin)
    if (order === 'after') await made.app.register(swagger, { openapi: {} })
    made.app.get('/shown', { schema: {} }, async () => 'x')
    await made.app.ready()
    t.strictSame(Object.keys((made.app as unknown as { swagger: () => { paths: object } }).swagger().paths), ['/shown'], order)
  }
})

t.test('@fastify/rate-limit does not limit them, registered before or after', async (t) => {
  for (const order of ['before', 'after']) {
    const made = setup(t)
    if (order === 'before') await made.app.register(rateLimit, { max: 2 })
    await made.app.register(made.plugin)
    if (order === 'after') await made.app.register(rateLimit, { max: 2 })
    made.app.get('/', async () => 'x')
    for (const url of ['/health/ready', '/health/live']) {
      for (let i = 0; i < 5; i++) t.equal((await made.app.inject(url)).statusCode, 200, `${order}, ${url}`)
    }
    const codes: number[] = []
    for (let i = 0; i < 3; i++) codes.push((await made.app.inject('/')).statusCode)
    t.strictSame(codes, [200, 200, 429], 'the others are limited')
  }
})

t.test('hooks that are added after the plugin do not get at them, whatever they do', async (t) => {
  const calls: string[] = []
  const { app } = await start(t, {}, {
    build: (app) => {
      app.addHook('onRequest', async (_request, reply) => { calls.push('onRequest'); return await reply.code(401).send() })
      app.addHook('onRequest', () => { calls.push('hangs') })
      app.addHook('preHandler', async () => { calls.push('preHandler') })
      app.addHook('preSerialization', async (_request, _reply, payload) => { calls.push('preSerialization'); return payload })
      app.addHook('onSend', async (_request, reply) => { calls.push('onSend'); reply.code(200); return 'rewritten' })
    }
  })
  t.strictSame((await app.inject('/health/ready')).json(), { status: 'ready' })
  t.strictSame((await app.inject('/health/live')).json(), { status: 'alive' })
  t.strictSame(calls, [])
})

t.test('an onSend hook, added before or after, cannot turn the 503 into something else', async (t) => {
  for (const order of ['before', 'after']) {
    const made = setup(t)
    const rewrite = () => made.app.addHook('onSend', async (_request, reply) => { reply.code(200).header('x-sent', '1'); return '{"status":"fine"}' })
    if (order === 'before') rewrite()
    await made.app.register(made.plugin, { deregistration: 'delay' })
    if (order === 'after') rewrite()
    await made.app.listen({ port: 0, host: '127.0.0.1' })
    void made.app.shutdown.begin('test')
    const { statusCode, body, headers } = await made.app.inject('/health/ready')
    t.strictSame([statusCode, body, headers['x-sent']], [503, '{"status":"draining"}', undefined], order)
  }
})

t.test('a hook that was added before the plugin and gets at them fails the boot: path, what was wanted, what came', async (t) => {
  for (const [options, path] of [[{}, '/health/ready'], [{ readinessPath: false }, '/health/live']] as const) {
    const made = setup(t)
    made.app.addHook('onRequest', async (_request, reply) => await reply.code(401).send({ error: 'who are you?' }))
    await made.app.register(made.plugin, options)
    await t.rejects(Promise.resolve(made.app.ready()), {
      code: 'FARGATE_ERR_PROBE_INTERCEPTED',
      message: `GET ${path}: it should answer 200 {"status":"${path === '/health/live' ? 'alive' : 'ready'}"}, but answered 401 {"error":"who are you?"}`
    })
  }
})

t.test('a hook that hangs, added before the plugin, fails the boot after five seconds', async (t) => {
  const made = setup(t)
  made.app.addHook('onRequest', () => {})
  await made.app.register(made.plugin)
  const ready = made.app.ready().then(() => 'ready', (error: unknown) => error)
  // The boot takes turns of its own before it comes to the check.
  while (made.clock.pending === 0) await made.clock.settle()
  await made.clock.advance(5000)
  t.match(await ready, { code: 'FARGATE_ERR_PROBE_INTERCEPTED', message: 'but answered nothing within 5 s.' })
})

t.test('a hook that lets them through does not fail the boot', async (t) => {
  const made = setup(t)
  made.app.addHook('onRequest', async (request, reply) => {
    if (!request.url.startsWith('/health/')) return await reply.code(401).send()
  })
  await made.app.register(made.plugin)
  await made.app.ready()
  t.equal((await made.app.inject('/health/ready')).statusCode, 200)
})

t.test('a path that is taken fails the registration, and says which option to change', async (t) => {
  for (const [option, path] of [['readinessPath', '/health/ready'], ['livenessPath', '/health/live']] as const) {
    const made = setup(t)
    made.app.get(path, async () => 'mine')
    await t.rejects(Promise.resolve(made.app.register(made.plugin)), {
      code: 'FARGATE_ERR_PATH_TAKEN',
      message: `${option}: the application already has a route GET ${path}. Remove that route, or set ${option} to another path, or to false.`
    })
  }
})

t.test('in a child with a prefix the paths have the prefix', async (t) => {
  const made = setup(t)
  await made.app.register(async (child) => { await child.register(made.plugin) }, { prefix: '/api' })
  await made.app.ready()
  await made.clock.settle()
  t.equal((await made.app.inject('/api/health/ready')).statusCode, 200)
  t.equal((await made.app.inject('/health/ready')).statusCode, 404)
})

t.test('in a child with a prefix a path that is taken is told as well', async (t) => {
  const made = setup(t)
  made.app.get('/api/health/ready', async () => 'mine')
  await t.rejects(Promise.resolve(made.app.register(async (child) => { await child.register(made.plugin) }, { prefix: '/api' })), {
    code: 'FARGATE_ERR_PATH_TAKEN', message: 'GET /api/health/ready'
  })
})

t.test('the readiness check is asked by the readiness route, in the state ready, and by nobody else', async (t) => {
  let calls = 0
  const { app, clock } = await listen(t, {
    deregistration: 'delay', readiness: { failures: 1, successes: 1, check: () => { calls++; return false } }
  })
  t.equal(calls, 0, 'not by the boot')
  await app.inject('/health/live')
  t.equal(calls, 0)
  const { statusCode, body, headers } = await app.inject('/health/ready')
  t.strictSame([statusCode, body, headers['retry-after']], [503, '{"status":"failing"}', undefined])
  t.equal(calls, 1)
  t.equal(app.shutdown.state, 'ready', 'the state is no matter of the check')
  void app.shutdown.begin('test')
  await clock.advance(6000)
  t.match((await app.inject('/health/ready')).json(), { status: 'draining' })
  t.equal(calls, 1)
})

t.test('a readiness check that hangs is not asked at boot', async (t) => {
  const { app } = await start(t, { readiness: () => new Promise(() => {}) })
  t.equal(app.shutdown.state, 'ready')
})

t.test('a probe that waits for its check when the stop begins says draining, not ready', async (t) => {
  let finish!: () => void
  const finished = new Promise<void>((resolve) => { finish = resolve })
  const { app, clock } = await listen(t, { deregistration: 'delay', readiness: () => finished })
  const answer = app.inject('/health/ready')
  await clock.settle()
  void app.shutdown.begin('test')
  finish()
  const { statusCode, body } = await answer
  t.strictSame([statusCode, body], [503, '{"status":"draining"}'])
})

t.test('registered as a Fastify plugin it answers as before in an instance with its own not-found and error handlers', async (t) => {
  const { app } = await start(t, {}, {
    build: (app) => {
      app.setNotFoundHandler(async (_request, reply) => await reply.code(418).send())
      app.setErrorHandler(async (_error, _request, reply) => await reply.code(500).send())
    }
  })
  t.equal((await app.inject('/health/ready')).statusCode, 200)
  t.equal((await app.inject('/elsewhere')).statusCode, 418)
})

t.test('a probe that somebody else answers while the check is asked is left alone', async (t) => {
  let pass!: () => void
  const made = await listen(t, { readiness: () => new Promise<void>((resolve) => { pass = resolve }) })
  const raws: ServerResponse[] = []
  made.app.server.on('request', (_request, response: ServerResponse) => { raws.push(response) })
  const client = await connect(t, made.port)
  client.get('/health/ready')
  while (raws.length < 1) await made.clock.settle()
  raws[0]!.writeHead(504)
  raws[0]!.end('late')
  pass()
  await client.until(/504[^]*late/)
  await made.clock.settle()
  t.notMatch(client.received, /status/)
})
