import { createServer, type Server } from 'node:http'
import { createServer as createHttp2Server } from 'node:http2'
import { createServer as createNetServer, type AddressInfo } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import t, { type Test } from 'tap'
import { type FargateOptions } from '../types/index.js'
import { listen, start } from './support/app.js'
import { connect } from './support/client.js'
import { calls } from './support/server.js'

for (const [name, value] of Object.entries({
  nothing: undefined,
  null: null,
  'a port': 8080,
  text: 'http://127.0.0.1',
  'an object that is no server': { listen () {}, on () {} },
  'the module': { createServer },
  'a server without HTTP': createNetServer(),
  'a server of TLS without HTTP': createTlsServer()
})) {
  t.test(`addServer: ${name} is refused`, async (t) => {
    const { app } = await start(t)
    t.throws(() => { app.shutdown.addServer(value as unknown as Server) }, { code: 'FARGATE_ERR_BAD_ARGUMENT', message: /expects a server of node:http, node:https or node:http2, got / })
  })
}

t.test('addServer: servers of HTTP and HTTP/2 are taken, also twice, and Fastify\'s own', async (t) => {
  const { app } = await start(t)
  const server = createServer()
  for (const good of [server, server, createHttp2Server(), app.server]) app.shutdown.addServer(good as Server)
  t.equal(server.listenerCount('request'), 1)
})

t.test('addServer: a stop drains it and closes it, with what is in flight on it', async (t) => {
  const { app, port, host, clock, lines, answer, handled } = await listenTwice(t, { deregistration: 'delay' })
  const held = await connect(t, port)
  held.get('/held')
  await handled()
  const idle = await connect(t, port)
  idle.get('/')
  await idle.until(/fine$/)
  host.emit('SIGTERM')
  t.equal(app.shutdown.state, 'draining')
  await clock.advance(1)
  const fresh = await connect(t, port)
  fresh.get('/')
  t.match(await fresh.ended, /^HTTP\/1\.1 200 [^]*connection: close\r\n[^]*fine$/i)
  const probe = await connect(t, port)
  probe.get('/health/ready')
  t.match(await probe.ended, /^HTTP\/1\.1 503 [^]*draining/)
  await clock.advance(20_000)
  t.equal(app.shutdown.state, 'closing')
  t.match(await idle.ended, /fine$/)
  await t.rejects(connect(t, port), { code: 'ECONNREFUSED' })
  t.strictSame(host.exits, [])
  answer()
  t.match(await held.ended, /^HTTP\/1\.1 200 [^]*connection: close\r\n[^]*held$/i)
  await exited()
  t.match(lines.at(-1), { report: { exitCode: 0, requests: { inFlightAtSignal: 1, servedWhileDraining: 1 }, cut: [] } })

  async function exited () {
    while (host.exits.length === 0) await clock.advance(10)
    t.equal(host.exitCode, 0)
  }
})

t.test('addServer: a plain app.close() closes it, and waits for what is in flight on it', async (t) => {
  const { app, port, added, answer, handled } = await listenTwice(t)
  const held = await connect(t, port)
  held.get('/held')
  await handled()
  const idle = await connect(t, port)
  idle.get('/')
  await idle.until(/fine$/)
  const silent = await connect(t, port)
  let hasClosed = false
  const closed = app.close().then(() => { hasClosed = true })
  await Promise.all([idle.ended, silent.ended])
  t.equal(added.listening, false)
  t.equal(hasClosed, false)
  answer()
  t.match(await held.ended, /^HTTP\/1\.1 200 [^]*connection: close\r\n[^]*held$/i)
  await closed
  t.equal(app.shutdown.state, 'closed')
})

/** Port and server are those of the added one. */
async function listenTwice (t: Test, options: FargateOptions = {}) {
  const { call: answer, next: answered } = calls<void>()
  const { call: handle, next: handled } = calls<void>()
  const added = createServer((req, res) => { made.app.routing(req, res) })
  const made = await listen(t, options, {
    build (app) {
      app.shutdown.addServer(added)
      app.get('/', async () => 'fine')
      app.get('/held', async () => {
        handle()
        await answered()
        return 'held'
      })
    }
  })
  await new Promise<void>((resolve) => { added.listen(0, '127.0.0.1', resolve) })
  t.teardown(() => { added.closeAllConnections() })
  return { ...made, added, answer, handled, port: (added.address() as AddressInfo).port }
}
