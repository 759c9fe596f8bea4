import { channel } from 'node:diagnostics_channel'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { connect as connectHttp2, type ClientHttp2Session } from 'node:http2'
import { type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect as connectTls } from 'node:tls'
import Fastify, { type FastifyReply } from 'fastify'
import fp from 'fastify-plugin'
import t, { type Test } from 'tap'
import { type StateMessage } from '../types/index.js'
import { listen, setup, start, type Setup } from './support/app.js'
import { connect } from './support/client.js'
import { turnOfEventLoop } from './support/clock.js'
import { calls } from './support/server.js'

const ECS = { ECS_CONTAINER_METADATA_URI_V4: 'http://169.254.170.2/v4/x' }

/** Resolves when the process would have ended; real sockets take turns of the real event loop for it. */
async function exited ({ host, clock }: Setup): Promise<number> {
  for (let turn = 0; turn < 100_000 && host.exitCode === undefined; turn++) await turnOfEventLoop()
  if (host.exitCode === undefined) throw new Error(`the process did not end: ${JSON.stringify(clock.dueInMs)}`)
  return host.exitCode
}

/** TLS by a key that both sides know: no certificate has to be made. */
const tls = { ciphers: 'PSK', maxVersion: 'TLSv1.2' } as const
const psk = Buffer.from('00ff', 'hex')

/** The report, which is the last line of the log. */
const reportOf = ({ lines }: Setup) => lines.at(-1)?.report

t.test('a stop from the signal to the exit: readiness, serving, in flight, hooks, close, report', async (t) => {
  const replies = calls<{ reply: FastifyReply }>()
  const order: string[] = []
  const made = await listen(t, { deregistration: 'delay' }, {
    build: (app) => {
      app.get('/slow', (_request, reply) => { replies.call({ reply }) })
      app.get('/quick', async () => 'quick')
      app.addHook('preClose', async () => { order.push('preClose') })
      app.addHook('onClose', async () => { order.push('onClose') })
    }
  })
  const { app, clock, host, port, lines } = made
  app.shutdown.onDraining(() => { order.push(`onDraining ${app.shutdown.state}`) })
  app.shutdown.onClosing(() => { order.push(`onClosing ${app.shutdown.state}`) })
  const slow = await connect(t, port)
  slow.get('/slow?token=secret')
  const { reply } = await replies.next()
  const idle = await connect(t, port)
  idle.get('/quick')
  await idle.until(/quick$/)
  t.match(idle.received, /connection: keep-alive/i)

  host.emit('SIGTERM')
  t.equal(app.shutdown.state, 'draining')
  t.equal(app.shutdown.signal.aborted, true)
  t.equal((await app.inject('/health/ready')).statusCode, 503)
  await clock.advance(5000)
  const fresh = await connect(t, port)
  fresh.get('/quick')
  t.match(await fresh.ended, /200 OK[^]*connection: close[^]*quick$/i)

  await clock.advance(15_000)
  t.equal(app.shutdown.state, 'closing')
  t.match(await idle.ended, /quick$/, 'an idle connection is ended now, not before')
  await t.rejects(connect(t, port), { code: 'ECONNREFUSED' })
  t.strictSame(order, ['onDraining draining', 'onClosing closing'])
  t.equal(app.shutdown.abortSignal.aborted, false)

  await clock.advance(1000)
  reply.raw.end('slow')
  t.match(await slow.ended, /connection: close[^]*slow/i)
  t.equal(await exited(made), 0)
  t.strictSame(order.slice(2), ['preClose', 'onClose'])
  t.equal(app.shutdown.state, 'closed')
  t.match(reportOf(made), {
    reason: 'SIGTERM',
    exitCode: 0,
    order: 'signal-first',
    requests: { inFlightAtSignal: 1, servedWhileDraining: 1, lastAfterMs: 5000 },
    cut: [],
    errors: [],
    durations: { drainingMs: 20_000, closingMs: 1000, totalMs: 21_000 }
  })
  t.equal(lines.filter(({ report }) => report !== undefined).length, 1)
  t.equal(clock.pending + clock.background, 0)
})

t.test('what is in flight at the deadline is cut off, and named with route, id, path and age', async (t) => {
  const replies = calls<{ reply: FastifyReply }>()
  const made = await listen(t, { deregistration: 'none' }, { build: (app) => { app.get('/reports/:id', (_request, reply) => { replies.call({ reply }) }) } })
  const { clock, host, port, app } = made
  const client = await connect(t, port)
  client.get('/reports/7?token=secret')
  const { reply } = await replies.next()
  const { id } = reply.request
  // Its age counts from the end of the 20 ms in which it came.
  await clock.advance(2000)
  host.emit('SIGTERM')
  await clock.advance(25_200)
  t.equal(app.shutdown.abortSignal.aborted, true)
  await clock.advance(2800)
  t.equal(await client.ended, '')
  t.equal(await exited(made), 1)
  t.match(reportOf(made), {
    exitCode: 1, cut: [{ kind: 'request', name: 'GET /reports/:id', path: '/reports/7', requestId: id, ageMs: 29_980, remoteAddress: '127.0.0.1' }]
  })
  t.notMatch(JSON.stringify(reportOf(made)), 'secret')
})

t.test('a close that rejects makes the exit code 1', async (t) => {
  const made = await listen(t, { deregistration: 'none' }, { build: (app) => { app.addHook('onClose', async () => { throw new Error('pool') }) } })
  made.host.emit('SIGTERM')
  t.equal(await exited(made), 1)
  t.match(reportOf(made), { errors: [{ where: 'fastify.close()', message: 'pool' }] })
})

t.test('an upgraded connection that nobody ends is cut off at the limit for streams', async (t) => {
  const made = await listen(t, { deregistration: 'none' })
  const upgraded = new Promise<Socket>((resolve) => { made.app.server.once('upgrade', (_req, socket) => { resolve(socket as Socket) }) })
  const client = await connect(t, made.port)
  client.get('/', 'Connection: Upgrade\r\nUpgrade: websocket\r\n')
  const socket = await upgraded
  socket.write('hello')
  await client.until(/hello/)
  made.host.emit('SIGTERM')
  await made.clock.advance(26_599)
  t.equal(socket.destroyed, false)
  await made.clock.advance(1)
  await client.ended
  t.equal(await exited(made), 1)
  t.match(reportOf(made), { cutCount: 1, cut: [{ kind: 'connection', name: 'an upgraded connection' }], durations: { totalMs: 26_600 } })
})

t.test('fastify.close() by the application', async (t) => {
  t.test('closes at once, exits nothing, and leaves nothing on the process', async (t) => {
    const made = await listen(t, { deregistration: 'delay' })
    const client = await connect(t, made.port)
    client.get('/health/live')
    await client.until(/alive/)
    t.ok(made.host.listening > 0)
    await made.app.close()
    await client.ended
    t.equal(made.app.shutdown.state, 'closed')
    t.strictSame(made.host.exits, [])
    t.equal(made.host.listening, 0)
    t.equal(made.clock.pending + made.clock.background, 0)
    t.match(reportOf(made), { reason: 'fastify.close()', exitCode: 0, drainEnded: 'fastify.close() was called' })
  })

  t.test('lets what is in flight end', async (t) => {
    const replies = calls<{ reply: FastifyReply }>()
    const made = await listen(t, {}, { build: (app) => { app.get('/', (_request, reply) => { replies.call({ reply }) }) } })
    const client = await connect(t, made.port)
    client.get('/')
    const { reply } = await replies.next()
    const closed = made.app.close()
    await made.clock.advance(1000)
    reply.raw.end('answered')
    t.match(await client.ended, 'answered')
    await closed
    t.equal(made.app.shutdown.state, 'closed')
  })

  t.test('twice is once', async (t) => {
    const made = await listen(t)
    await Promise.all([made.app.close(), made.app.close()])
    t.equal(made.lines.filter(({ report }) => report !== undefined).length, 1)
  })

  t.test('of an instance that was never ready leaves nothing either', async (t) => {
    const made = setup(t)
    void made.app.register(made.plugin)
    await made.app.close()
    await turns(5)
    t.equal(made.host.listening, 0)
    t.equal(made.clock.pending + made.clock.background, 0)
    t.equal(made.app.shutdown.state, 'closed')
  })

  t.test('of an instance that could not boot leaves nothing on the process', async (t) => {
    const made = setup(t)
    made.app.register(made.plugin)
    made.app.register(async () => { throw new Error('no database') })
    await t.rejects(Promise.resolve(made.app.ready()), { message: 'no database' })
    await made.app.close().catch(() => {})
    await turns(5)
    t.equal(made.host.listening, 0)
    t.equal(made.clock.pending, 0)
  })

  t.test('while draining ends the wait, and the process ends with its report', async (t) => {
    const made = await listen(t, { deregistration: 'delay' })
    made.host.emit('SIGTERM')
    await made.clock.advance(1000)
    await made.app.close()
    t.equal(await exited(made), 0)
    t.match(reportOf(made), { reason: 'SIGTERM', drainEnded: 'fastify.close() was called' })
  })

  t.test('a signal in the middle of it ends the process when it has closed', async (t) => {
    const hooks = calls<() => void>()
    const made = await listen(t, {}, { build: (app) => { app.addHook('onClose', () => new Promise<void>((resolve) => { hooks.call(resolve) })) } })
    const closed = made.app.close()
    const end = await hooks.next()
    made.host.emit('SIGTERM')
    await made.clock.advance(1000)
    t.strictSame(made.host.exits, [])
    end()
    await closed
    t.equal(await exited(made), 0)
    t.match(reportOf(made), { reason: 'fastify.close()' })
  })
})

t.test('begin()', async (t) => {
  t.test('is the same stop without a signal; it resolves with the report, and does not end the process', async (t) => {
    const made = await listen(t, { deregistration: 'delay' })
    const report = made.app.shutdown.begin('deploy')
    t.equal(made.app.shutdown.state, 'draining')
    t.equal(made.app.shutdown.begin('again'), report, 'a second call returns the same promise')
    await made.clock.advance(20_000)
    t.match(await report, { reason: 'deploy', exitCode: 0 })
    await made.clock.settle()
    t.strictSame(made.host.exits, [])
    t.equal(made.host.listening, 0)
  })

  t.test('with exit it stops every instance, then ends the process', async (t) => {
    const made = await listen(t, { deregistration: 'delay' })
    const other = Fastify()
    await other.register(made.plugin)
    await other.ready()
    const report = made.app.shutdown.begin('deploy', { exit: true })
    t.equal(other.shutdown.state, 'closing', 'it does not listen, so there is nothing to drain')
    await made.clock.advance(20_000)
    t.match(await report, { reason: 'deploy' })
    t.equal(await exited(made), 0)
    t.equal(other.shutdown.state, 'closed')
  })

  t.test('SIGINT during it ends the wait, and then the process', async (t) => {
    const made = await listen(t, { deregistration: 'delay' })
    const report = made.app.shutdown.begin('deploy')
    await made.clock.advance(1000)
    made.host.emit('SIGINT')
    t.match(await report, { reason: 'deploy', drainEnded: 'SIGINT came' })
    t.equal(await exited(made), 0)
  })
})

t.test('fastify.shutdown', async (t) => {
  t.test('tells the state, and how long there is', async (t) => {
    const made = await listen(t, { deregistration: 'delay' })
    const { shutdown } = made.app
    t.equal(shutdown.state, 'ready')
    t.equal(shutdown.remaining(), Infinity)
    t.equal(shutdown.signal.aborted, false)
    made.host.emit('SIGTERM')
    t.equal(shutdown.remaining(), 28_000)
    await made.clock.advance(1000)
    t.equal(shutdown.remaining(), 27_000)
  })

  t.test('a hook that fails makes the exit code 1', async (t) => {
    const made = await listen(t, { deregistration: 'none' })
    made.app.shutdown.onClosing(async function flush () { throw new Error('disk full') })
    made.host.emit('SIGTERM')
    t.equal(await exited(made), 1)
    t.match(reportOf(made), { errors: [{ where: 'onClosing hook flush', message: 'disk full' }] })
  })

  t.test('a second signal, a third: what is left has the abort grace, then nothing', async (t) => {
    const replies = calls<{ reply: FastifyReply }>()
    const made = await listen(t, { deregistration: 'delay' }, { build: (app) => { app.get('/', (_request, reply) => { replies.call({ reply }) }) } })
    const client = await connect(t, made.port)
    client.get('/')
    await replies.next()
    made.host.emit('SIGTERM')
    await made.clock.advance(1000)
    made.host.emit('SIGTERM')
    t.equal(made.app.shutdown.remaining(), 2800)
    t.equal(made.app.shutdown.abortSignal.aborted, true)
    await made.clock.advance(300)
    t.equal(made.app.shutdown.state, 'closing')
    made.host.emit('SIGTERM')
    t.equal(made.host.exitCode, 1)
    t.match(reportOf(made), { exitCode: 1, cut: [{ name: 'GET /' }] })
  })

  t.test('an error that nobody caught: crash decides, the report names it', async (t) => {
    const made = await listen(t, { crash: 'drain', deregistration: 'delay' })
    made.host.emit('uncaughtException', new Error('oops'))
    t.equal(made.app.shutdown.state, 'draining')
    await made.clock.advance(20_000)
    t.equal(await exited(made), 1)
    t.match(reportOf(made), { reason: 'uncaughtException', errors: [{ where: 'uncaughtException', message: 'oops' }] })
  })

  t.test('every move goes to the diagnostics channel, with its instance', async (t) => {
    const made = setup(t)
    const seen: string[] = []
    const listener = (message: unknown) => {
      const { fastify, from, to, reason } = message as StateMessage
      t.equal(fastify, made.app)
      seen.push(`${from} -> ${to}: ${reason}`)
    }
    channel('fastify-fargate.state').subscribe(listener)
    t.teardown(() => channel('fastify-fargate.state').unsubscribe(listener))
    await made.app.register(made.plugin, { deregistration: 'none' })
    await made.app.listen({ port: 0, host: '127.0.0.1' })
    made.host.emit('SIGTERM')
    await exited(made)
    t.strictSame(seen, [
      'starting -> ready: the service has started',
      'ready -> draining: SIGTERM',
      'draining -> closing: deregistration is none: nothing is waited for',
      'closing -> closed: the stop has ended'
    ])
  })
})

t.test('traffic', async (t) => {
  const build = (app: Setup['app']) => {
    app.get('/', async () => 'x')
    app.get('/metrics', { config: { shutdown: { traffic: false } } }, async () => 'x')
    app.get('/metrics-with-a-hook', { config: { shutdown: { traffic: false } }, onRequest: [async () => {}, async () => {}] }, async () => 'x')
  }

  for (const [path, isTraffic] of [['/', true], ['/metrics', false], ['/metrics-with-a-hook', false], ['/health/ready', false], ['/health/live', false]] as const) {
    t.test(`${path} ${isTraffic ? 'is' : 'is not'} traffic`, async (t) => {
      const made = await listen(t, { deregistration: 'delay' }, { build })
      made.host.emit('SIGTERM')
      await made.clock.advance(1000)
      const client = await connect(t, made.port)
      client.get(path)
      t.match(await client.ended, /^HTTP\/1\.1 (200|503)/)
      await made.clock.advance(19_000)
      await exited(made)
      t.match(reportOf(made), {
        order: isTraffic ? 'signal-first' : 'unknown', requests: { servedWhileDraining: isTraffic ? 1 : 0, lastAfterMs: isTraffic ? 1000 : null }
      })
    })
  }

  t.test('outside ECS a service that nobody has asked anything ends at once', async (t) => {
    const made = await listen(t, {}, { build })
    made.host.emit('SIGTERM')
    t.equal(await exited(made), 0)
    t.match(reportOf(made), { drainEnded: /^neither a request nor a probe/, durations: { totalMs: 0 } })
  })
})

t.test('the boot', async (t) => {
  t.test('is ready when it is, without startup checks', async (t) => {
    const made = setup(t)
    await made.app.register(made.plugin)
    t.equal(made.app.shutdown.state, 'starting')
    await made.app.ready()
    await made.clock.settle()
    t.equal(made.app.shutdown.state, 'ready')
    t.equal(made.clock.pending, 0)
  })

  t.test('with startup checks it listens, is alive, and is not ready until they have passed', async (t) => {
    let isUp = false
    const made = await listen(t, { startup: [{ name: 'db', check: () => { if (!isUp) throw new Error('refused') } }] })
    t.equal(made.app.shutdown.state, 'starting')
    t.equal((await made.app.inject('/health/live')).statusCode, 200)
    t.equal((await made.app.inject('/health/ready')).statusCode, 503)
    isUp = true
    await made.clock.advance(500)
    t.equal(made.app.shutdown.state, 'ready')
    isUp = false
    await made.clock.advance(3_600_000)
    t.equal(made.app.shutdown.state, 'ready', 'a check that has passed is never asked again')
  })

  t.test('a stop while a startup check is retried: it drains as ever, and does not become ready', async (t) => {
    const made = await listen(t, { deregistration: 'delay', startup: [{ name: 'db', check: () => { throw new Error('refused') } }] })
    await made.clock.advance(1000)
    made.host.emit('SIGTERM')
    await made.clock.advance(0)
    t.equal(made.app.shutdown.state, 'draining')
    await made.clock.advance(20_000)
    t.equal(await exited(made), 0)
    await turns(5)
    t.equal(made.clock.pending, 0)
  })

  /** A boot that goes on when the test says so. */
  const boot = async (t: Test) => {
    const made = setup(t)
    const plugins = calls<() => void>()
    const state: { error?: unknown } = {}
    await made.app.register(made.plugin)
    made.app.register(fp(async () => { await new Promise<void>((resolve) => { plugins.call(resolve) }) }))
    const refused = made.app.listen({ port: 0, host: '127.0.0.1' }).then(() => 'it listens', (error: unknown) => {
      state.error = error
      return error
    })
    return { ...made, refused, state, go: await plugins.next() }
  }

  t.test('a stop signal during it is a clean stop: exit code 0, and no error of listen() comes before', async (t) => {
    const made = await boot(t)
    made.host.emit('SIGTERM')
    await made.clock.settle()
    made.go()
    t.equal(await exited(made), 0)
    t.equal(made.state.error, undefined, 'the application would exit with 1')
    t.match(reportOf(made), { reason: 'SIGTERM', exitCode: 0, cut: [], errors: [] })
    t.equal(made.app.server.listening, false)
    t.equal(made.app.shutdown.state, 'closed')
  })

  t.test('begin() during it, without an exit: listen() rejects when the stop has ended', async (t) => {
    const made = await boot(t)
    const report = made.app.shutdown.begin('test')
    await made.clock.settle()
    made.go()
    t.match(await made.refused, { code: 'FARGATE_ERR_STOPPED_DURING_BOOT', message: 'The service was told to stop (test) while it was starting' })
    t.match(await report, { exitCode: 0, errors: [] })
    t.equal(made.app.shutdown.state, 'closed')
    t.equal(made.app.server.listening, false)
    t.strictSame(made.host.exits, [])
  })

  t.test('a bad option fails the registration', async (t) => {
    const made = setup(t)
    await t.rejects(Promise.resolve(made.app.register(made.plugin, { stopTimeout: '30 s' })), { code: 'FARGATE_ERR_BAD_SETTING' })
    t.equal(made.host.listening, 0)
  })

  t.test('a bad variable does so too: the environment is that of the host', async (t) => {
    const made = setup(t, { env: { FARGATE_STOP_TIMEOUT: '30 s' } })
    await t.rejects(Promise.resolve(made.app.register(made.plugin)), { code: 'FARGATE_ERR_BAD_SETTING', message: 'environment variable FARGATE_STOP_TIMEOUT' })
  })

  t.test('registered twice it fails, on the same instance and in a child', async (t) => {
    for (const where of ['same', 'child']) {
      const made = setup(t)
      await made.app.register(made.plugin)
      await t.rejects(Promise.resolve(made.app.register(where === 'same' ? made.plugin : async (child) => { await child.register(made.plugin) })), {
        code: 'FARGATE_ERR_ALREADY_REGISTERED'
      })
    }
  })

  t.test('logs the configuration once: each value, its source, the timeline', async (t) => {
    const { lines } = await start(t, { quiet: 5, readiness: () => {} }, { env: { FARGATE_STOP_TIMEOUT: '60' } })
    const [line, ...others] = lines.filter(({ fargate }) => fargate !== undefined)
    t.strictSame(others, [])
    t.equal(line?.level, 'info')
    t.match(line?.msg, /^fastify-fargate: stopTimeout 60 s \(environment\), draining ends after 41\.4\d* s, deadline 58 s$/)
    t.match(line?.fargate, {
      stopTimeout: 60, quiet: 5, deregistration: 'traffic', sources: { stopTimeout: 'environment', quiet: 'option', margin: 'default' }, timeline: { deadline: 58_000 }
    })
  })

  t.test('a strategy of the application\'s own is logged as what it is, not with its source', async (t) => {
    const { lines } = await start(t, { deregistration: async () => 'secret' })
    t.match(lines.find(({ fargate }) => fargate !== undefined)?.fargate, { deregistration: /^function$/ })
  })

  t.test('warns when it listens: configuration, foreign listeners, keep-alive, address, process 1', async (t) => {
    const made = setup(t, { env: ECS, init: 'npm start', server: { keepAliveTimeout: 5000 } })
    made.host.on('SIGTERM', () => {})
    await made.app.register(made.plugin, { deregistrationDelay: 5 })
    await made.app.ready()
    t.strictSame(made.of('warn'), [], 'not before')
    await made.app.listen({ port: 0, host: '127.0.0.1' })
    t.match(made.of('warn'), [
      /^deregistrationDelay 5 s is short/, /^1 other SIGTERM listener/, /^keepAliveTimeout 5000 ms/, /^The service listens on 127\.0\.0\.1 only/, /^Process 1 .*npm start/
    ])
  })

  t.test('a service on a unix socket is nothing to be warned of', async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'fargate-'))
    t.teardown(() => { rmSync(folder, { recursive: true }) })
    const made = setup(t, { env: ECS })
    await made.app.register(made.plugin)
    await made.app.listen({ path: join(folder, 'socket') })
    t.strictSame(made.of('warn'), [])
  })
})

t.test('the cost', async (t) => {
  const hooksOf = async (options: Parameters<typeof start>[2]) => {
    const { app } = await start(t, {}, { ...options, server: { exposeHeadRoutes: false }, build: (app) => { app.get('/hello', async () => 'x') } })
    const tree = app.printRoutes({ includeHooks: true, commonPrefix: false })
    return tree.slice(tree.indexOf('/hello')).trim()
  }

  t.test('without a logger other routes have no hook at all', async (t) => {
    t.equal(await hooksOf({ level: false }), '/hello (GET)')
  })

  t.test('with a logger they have one, which names the request', async (t) => {
    const tree = await hooksOf({})
    t.match(tree, /onRequest/)
    t.notMatch(tree, /onResponse|onSend|preHandler/)
  })
})

t.test('registered without await, the routes that follow are named too', async (t) => {
  const made = setup(t)
  const replies = calls<{ reply: unknown }>()
  void made.app.register(made.plugin, { deregistration: 'none' })
  made.app.get('/reports/:id', (_request, reply) => { replies.call({ reply }) })
  await made.app.listen({ port: 0, host: '127.0.0.1' })
  const client = await connect(t, (made.app.server.address() as AddressInfo).port)
  client.get('/reports/7')
  await replies.next()
  const report = made.app.shutdown.begin('test')
  await made.clock.advance(28_500)
  t.match((await report).cut, [{ name: 'GET /reports/:id', requestId: /./ }])
})

t.test('every listener counts, also the second one that Fastify gives localhost', async (t) => {
  const made = setup(t, { level: false })
  const replies = calls<{ reply: FastifyReply }>()
  await made.app.register(made.plugin, { deregistration: 'delay' })
  made.app.get('/', (_request, reply) => { replies.call({ reply }) })
  await made.app.ready()
  // As Fastify does it for `localhost` where that has two addresses; not every machine has IPv6.
  const second: Server = createServer(made.app.routing as never)
  const symbol = symbolOf(made.app, 'fastify.serverBindings')
  ;(made.app as unknown as Record<symbol, Server[]>)[symbol]!.push(second)
  await new Promise<void>((resolve) => { second.listen(0, '127.0.0.1', resolve) })
  await made.app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = second.address() as AddressInfo
  const client = await connect(t, port)
  client.get('/')
  const { reply } = await replies.next()
  const report = made.app.shutdown.begin('test')
  await made.clock.advance(20_000)
  await t.rejects(connect(t, port), { code: 'ECONNREFUSED' })
  await made.clock.advance(1000)
  t.equal(made.app.shutdown.state, 'closing')
  reply.raw.end('answered')
  t.match(await client.ended, /connection: close[^]*answered/i)
  t.match(await report, { exitCode: 0, requests: { inFlightAtSignal: 1 } })
})

t.test('where Fastify hides its second listener elsewhere one day, there is still the first', async (t) => {
  const made = setup(t)
  made.app.addHook('onListen', async () => {
    delete (made.app as unknown as Record<symbol, unknown>)[symbolOf(made.app, 'fastify.serverBindings')]
  })
  await made.app.register(made.plugin, { deregistration: 'none' })
  await made.app.listen({ port: 0, host: '127.0.0.1' })
  t.equal((await made.app.inject('/health/ready')).statusCode, 200)
  made.app.server.close()
  made.host.emit('SIGINT')
  t.equal(made.app.shutdown.state, 'closing')
})

t.test('HTTPS: requests are followed, and connections are ended, as with HTTP', async (t) => {
  const replies = calls<{ reply: FastifyReply }>()
  const made = await listen(t, { deregistration: 'delay' }, {
    server: { https: { ...tls, pskCallback: () => psk } },
    build: (app) => {
      app.get('/', async () => 'quick')
      app.get('/slow', (_request, reply) => { replies.call({ reply }) })
    }
  })
  const open = async (path: string) => {
    const socket = connectTls({
      port: made.port, host: '127.0.0.1', ...tls, pskCallback: () => ({ psk, identity: 'x' }), checkServerIdentity: () => undefined
    })
    t.teardown(() => { socket.destroy() })
    let received = ''
    const ended = new Promise<string>((resolve) => { socket.on('error', () => {}).once('close', () => { resolve(received) }) })
    const answered = new Promise<void>((resolve) => { socket.on('data', (chunk) => { received += String(chunk); resolve() }) })
    await new Promise((resolve) => { socket.once('secureConnect', resolve) })
    socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`)
    return { answered, ended }
  }
  const idle = await open('/')
  await idle.answered
  const slow = await open('/slow')
  const { reply } = await replies.next()
  made.host.emit('SIGTERM')
  await made.clock.advance(20_000)
  await Promise.race([idle.ended, made.clock.advance(1000)])
  reply.raw.end('slow')
  await Promise.race([slow.ended, turns(200)])
  await made.clock.advance(10_000)
  t.match(await slow.ended, /connection: close[^]*slow/i)
  await exited(made)
  t.match(reportOf(made), { exitCode: 0, requests: { inFlightAtSignal: 1 }, durations: { totalMs: 21_000 } })
})

t.test('HTTP/2: requests are followed until they have ended, and sessions are told to go', async (t) => {
  const replies = calls<{ reply: FastifyReply }>()
  const made = await listen(t, { deregistration: 'delay' }, {
    server: { http2: true },
    build: (app) => {
      app.get('/', async () => 'quick')
      app.get('/slow', (_request, reply) => { replies.call({ reply }) })
    }
  })
  const session: ClientHttp2Session = connectHttp2(`http://127.0.0.1:${made.port}`)
  t.teardown(() => { session.destroy() })
  const goaway = new Promise((resolve) => { session.once('goaway', resolve) })
  const get = (path: string) => new Promise<string>((resolve, reject) => {
    let received = ''
    session.request({ ':path': path }).setEncoding('utf8').on('data', (text) => { received += String(text) }).once('end', () => { resolve(received) }).once('error', reject)
  })
  for (let i = 0; i < 3; i++) t.equal(await get('/'), 'quick')
  const slow = get('/slow')
  const { reply } = await replies.next()
  made.host.emit('SIGTERM')
  await made.clock.advance(20_000)
  await Promise.race([goaway, turns(200)])
  await made.clock.advance(1000)
  reply.raw.end('slow')
  t.equal(await slow, 'slow')
  await turns(50)
  await made.clock.advance(10_000)
  await exited(made)
  t.match(reportOf(made), { exitCode: 0, cut: [], requests: { inFlightAtSignal: 1 }, durations: { totalMs: 21_000 } })
})

/** Turns of the event loop, for what has to come over a socket. */
async function turns (count: number): Promise<void> {
  for (let i = 0; i < count; i++) await turnOfEventLoop()
}

function symbolOf (object: object, description: string): symbol {
  return Object.getOwnPropertySymbols(object).find((symbol) => symbol.description === description)!
}

t.test('a route that was there before the plugin is one that a load balancer may ask', async (t) => {
  for (const [route, drainEnded] of [[true, /20 s/], [false, 'nothing is served here but the health routes']] as const) {
    const { app, clock, plugin } = setup(t, { env: { ECS_CONTAINER_METADATA_URI_V4: 'http://169.254.170.2/v4/x' } })
    if (route) app.get('/', async () => 'x')
    await app.register(plugin)
    await app.listen({ port: 0, host: '127.0.0.1' })
    await clock.settle()
    const stopped = app.shutdown.begin('a stop')
    await clock.advance(20_000)
    t.match(await stopped, { drainEnded })
    t.equal((await stopped).durations.drainingMs, route ? 20_000 : 0)
  }
})
