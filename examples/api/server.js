// An API as it would run on ECS: nothing in it knows about stops but the one line that registers the plugin.
import Fastify from 'fastify'
import fastifyFargate from 'fastify-fargate'
import { setTimeout as sleep } from 'node:timers/promises'

const app = Fastify({ logger: true })

await app.register(fastifyFargate) // first

app.get('/', async () => ({ hello: 'world' }))

// Half a second of work: in flight at any moment, so every stop meets some.
app.get('/reports/:id', async (request) => {
  await sleep(500)
  return { report: request.params.id }
})

app.post('/orders', async (request, reply) => {
  await sleep(50)
  reply.code(201)
  return { accepted: request.body }
})

// A pool that must not be closed before the last request has ended.
app.addHook('onClose', async (instance) => { instance.log.info('the database pool is closed') })

await app.listen({ port: Number(process.env.PORT ?? 3000), host: '0.0.0.0' })
