// The server of connections.js: tells how long its event loop was stalled from the stop signal to the exit, and how much
// memory the stop took on top.
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import fastifySSE from '@fastify/sse'
import fastifyWebsocket from '@fastify/websocket'
import Fastify from 'fastify'
import fastifyFargate from 'fastify-fargate'

const app = Fastify()
await app.register(fastifyFargate, { deregistration: 'none' })
await app.register(fastifyWebsocket)
await app.register(fastifySSE)
app.get('/', async () => ({ hello: 'world' }))
app.get('/slow', async () => {
  await sleep(1000)
  return { hello: 'world' }
})
app.get('/live', { websocket: true }, (client) => { client.send('hello') })
app.get('/events', { sse: 'only' }, async (request, reply) => {
  const { closingSignal } = request.server.shutdown
  const close = () => reply.sse.close()
  reply.sse.keepAlive()
  closingSignal.addEventListener('abort', close)
  reply.sse.onClose(() => closingSignal.removeEventListener('abort', close))
  await reply.sse.send({ data: 'hello' })
})

const delay = monitorEventLoopDelay({ resolution: 5 })
const memory = () => process.memoryUsage().rss / 2 ** 20
let before
app.addHook('onListen', async () => { process.send({ port: app.server.address().port }) })
process.prependListener('SIGTERM', () => {
  before = memory()
  delay.enable()
})
// The last moment: what came before is in it.
process.on('exit', () => { process.send({ stallMs: delay.max / 1e6, beforeMb: before, stopMb: process.resourceUsage().maxRSS / 1024 - before }) })
await app.listen({ port: 0, host: '127.0.0.1' })
