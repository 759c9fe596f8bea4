// The server of connections.js: tells how long its event loop was stalled from the stop signal to the exit.
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import fastifyFargate from 'fastify-fargate'

const app = Fastify()
app.register(fastifyFargate, { deregistration: 'none' })
app.get('/', async () => ({ hello: 'world' }))
app.get('/slow', async () => {
  await sleep(1000)
  return { hello: 'world' }
})
const delay = monitorEventLoopDelay({ resolution: 5 })
app.addHook('onListen', async () => { process.send({ port: app.server.address().port }) })
process.prependListener('SIGTERM', () => {
  delay.enable()
})
// The last moment: what came before is in it.
process.on('exit', () => { process.send({ stallMs: delay.max / 1e6 }) })
await app.listen({ port: 0, host: '127.0.0.1' })
