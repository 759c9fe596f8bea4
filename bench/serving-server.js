// The server of serving.js, in a process of its own: the same application twice or thrice, alike but for the plugin.
import { createWriteStream } from 'node:fs'
import Fastify from 'fastify'
import fastifyFargate from 'fastify-fargate'

const variants = {
  bare: () => application(false),
  plugin: async () => withPlugin(application(false)),
  'bare, logging': () => application({ stream: createWriteStream('/dev/null') }),
  'plugin, logging': async () => withPlugin(application({ stream: createWriteStream('/dev/null') }))
}

function application (logger) {
  const app = Fastify({ logger })
  app.get('/', (request, reply) => { reply.send({ hello: 'world' }) })
  // As long as the answer of the readiness route.
  app.get('/static', (request, reply) => { reply.header('cache-control', 'no-store').send({ status: 'ready' }) })
  return app
}

function withPlugin (app) {
  app.register(fastifyFargate)
  return app
}

const ports = {}
for (const name of process.argv.slice(2)) {
  const app = await variants[name]()
  await app.listen({ port: 0, host: '127.0.0.1' })
  ports[name] = app.server.address().port
}
process.on('message', () => { process.send({ cpu: process.cpuUsage() }) })
process.send({ ports })
