// How long a stop takes, and what it loses, behind HAProxy under load: the plugin, `fastify.close()` alone, and a fixed
// sleep of three seconds, in each order of events. Run by bench/index.js.
import { servers, startFleet, type Order } from '../test/support/fleet.js'

const subjects = { 'fastify-fargate': 'service', 'fastify.close()': 'balancer-naive', 'sleep of 3 s': 'balancer-sleep' }
const orders: Order[] = ['documented', 'signal-first', 'unannounced']
const env = { FARGATE_STOP_TIMEOUT: '30', FARGATE_DEREGISTRATION_DELAY: '20', FARGATE_QUIET: '0.1' }

for (const order of orders) {
  for (const [subject, fixture] of Object.entries(subjects)) {
    const teardowns: Array<() => Promise<void> | void> = []
    const owner = { teardown: (fn: () => Promise<void> | void) => { teardowns.unshift(fn) } }
    const fleet = await startFleet(owner, { fixture, env, evidence: fixture === 'service' })
    const stops = []
    for (const server of servers) stops.push(await fleet.roll(server, order))
    const { lost } = await fleet.finish()
    const times = stops.map(({ exit }) => Math.round(exit.exitedAtMs)).sort((a, b) => a - b)
    console.log(`${order.padEnd(14)} ${subject.padEnd(18)} SIGTERM to exit ${times.join(', ')} ms; lost ${lost.length}`)
    for (const teardown of teardowns) await teardown()
  }
}
