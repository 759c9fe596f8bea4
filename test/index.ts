import Fastify from 'fastify'
import t from 'tap'
import * as entry from '../lib/index.js'
import fastifyFargate, { fastifyFargate as named } from '../lib/index.js'

t.test('the default export is the named export, and there is no other', async (t) => {
  t.equal(fastifyFargate, named)
  t.strictSame(Object.keys(entry).sort(), ['default', 'fastifyFargate'])
})

t.test('it is a plugin for Fastify 5, is not encapsulated, and has a name', async (t) => {
  const symbols = Object.fromEntries(Object.getOwnPropertySymbols(fastifyFargate)
    .map((symbol) => [symbol.description, (fastifyFargate as unknown as Record<symbol, unknown>)[symbol]]))
  t.match(symbols, {
    'skip-override': true,
    'fastify.display-name': 'fastify-fargate',
    'plugin-meta': { fastify: '5.x', name: 'fastify-fargate' }
  })
})

t.test('registered as it ships, it comes and goes without a trace on the process', async (t) => {
  const events = ['SIGTERM', 'SIGINT', 'uncaughtException', 'unhandledRejection']
  const count = () => events.map((event) => process.listenerCount(event))
  const before = count()
  const app = Fastify()
  await app.register(fastifyFargate, { deregistration: 'none' })
  await app.ready()
  t.strictSame(count(), before.map((listeners) => listeners + 1))
  t.ok(app.hasDecorator('shutdown'), 'not encapsulated')
  t.equal((await app.inject('/health/ready')).statusCode, 200)
  await app.close()
  t.equal(app.shutdown.state, 'closed')
  t.strictSame(count(), before)
})
