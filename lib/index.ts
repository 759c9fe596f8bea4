import fp from 'fastify-plugin'
import { systemClock } from './clock.js'
import { processCoordinator } from './coordinator.js'
import { systemHost } from './host.js'
import { createPlugin } from './plugin.js'

/**
 * Lets a Fastify service on Amazon ECS stop without losing a request: readiness turns 503 on the stop signal, every route
 * is served until the load balancer has let go, then `fastify.close()` runs inside a budget taken from `stopTimeout`, and
 * the process ends. Register it once, first, on the root instance.
 *
 * @see FargateOptions for the options, Shutdown for `fastify.shutdown`
 */
const fastifyFargate = fp(
  createPlugin(() => ({ clock: systemClock, host: systemHost, coordinator: processCoordinator(systemHost, systemClock) })),
  { fastify: '5.x', name: 'fastify-fargate' }
)

export default fastifyFargate
export { fastifyFargate }
export type * from '../types/index.js'
