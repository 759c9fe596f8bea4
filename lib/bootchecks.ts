import type { Server } from 'node:http'
import { type Config } from './config.js'

export interface BootFacts {
  readonly config: Config
  /** Addresses that the service listens on. */
  readonly addresses: readonly string[]
  readonly keepAliveTimeoutMs: Server['keepAliveTimeout']
  /** SIGTERM listeners of others. */
  readonly foreignListeners: number
  readonly initCommand: string | undefined
}

/** The idle timeout an ALB has unless it is told otherwise. */
const ALB_IDLE_TIMEOUT_MS = 60_000

/** What is likely to go wrong, and what to do about it. */
export function bootWarnings ({ config, addresses, keepAliveTimeoutMs, foreignListeners, initCommand }: BootFacts): string[] {
  const warnings = [...config.warnings]
  if (foreignListeners > 0) {
    warnings.push(`${foreignListeners} other SIGTERM listener${foreignListeners > 1 ? 's are' : ' is'} installed and may end the process in the middle of the stop (fastify-cli does after 500 ms). Start the service with node, and remove other signal handlers: fastify-fargate replaces them.`)
  }
  // What follows is about the load balancer and the container.
  if (config.platform === 'elsewhere') return warnings
  if (config.deregistration !== 'none') {
    if (keepAliveTimeoutMs > 0 && keepAliveTimeoutMs <= ALB_IDLE_TIMEOUT_MS) {
      warnings.push(`keepAliveTimeout ${keepAliveTimeoutMs} ms is not above the idle timeout of an ALB (60 s unless changed), so it may send a request on a connection that is being closed: 502. Set it above (Fastify's default is 72000).`)
    }
    if (addresses.length > 0 && addresses.every(isLoopback)) {
      warnings.push(`The service listens on ${addresses.join(', ')} only, so no load balancer can reach it. Listen on host '0.0.0.0' or '::'.`)
    }
  }
  if (initCommand !== undefined && /^(\S*\/)?(npm|yarn|pnpm|(ba|da|a)?sh|node --run)\b/.test(initCommand)) {
    warnings.push(`Process 1 of this container is "${initCommand.slice(0, 80)}", which does not pass SIGTERM on. Write the command as an array (CMD ["node", "server.js"]).`)
  }
  return warnings
}

function isLoopback (address: string): boolean {
  return address.startsWith('127.') || address === '::1'
}
