// A Fastify instance with the plugin in it, on a manual clock and in a process that only seems to be one.

import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import fp from 'fastify-plugin'
import { type Environment } from '../../lib/config.js'
import { Coordinator } from '../../lib/coordinator.js'
import { createPlugin } from '../../lib/plugin.js'
import { type FargateOptions } from '../../types/index.js'
import { ManualClock } from './clock.js'
import { FakeHost } from './host.js'
import { memoryLog, type MemoryLog } from './log.js'

export interface Owner {
  teardown: (fn: () => Promise<unknown> | unknown) => void
}

export interface SetupOptions {
  env?: Environment
  /** The command of process 1. */
  init?: string
  /** For `Fastify()`. */
  server?: Record<string, unknown>
  /** `false`: the application does not log at all. */
  level?: 'trace' | 'info' | false
}

export interface Setup extends MemoryLog {
  readonly app: FastifyInstance
  readonly clock: ManualClock
  readonly coordinator: Coordinator
  readonly host: FakeHost
  /** As `lib/index.ts` makes it, but for its surroundings. */
  readonly plugin: ReturnType<typeof createPlugin>
}

/** An application without the plugin: for tests that care about what comes before it. */
export function setup (t: Owner, { env, init, server = {}, level = 'info' }: SetupOptions = {}): Setup {
  const clock = new ManualClock({ realTurns: true })
  const host = new FakeHost(clock, { ...(env && { env }), ...(init !== undefined && { init }) })
  const coordinator = new Coordinator(host, clock)
  const memory = memoryLog(level === false ? 'silent' : level)
  const app = Fastify({ ...(level !== false && { loggerInstance: memory.log }), ...server } as FastifyServerOptions) as unknown as FastifyInstance
  const plugin = fp(createPlugin(() => ({ clock, host, coordinator })), { fastify: '5.x', name: 'fastify-fargate' })
  t.teardown(() => {
    // What a failed test leaves open would hang the next ones.
    (app.server as { closeAllConnections?: () => void }).closeAllConnections?.()
    void app.close().catch(() => {})
    return clock.advance(10_000_000)
  })
  return { ...memory, app, clock, coordinator, host, plugin }
}

/** An application that is ready. */
export async function start (
  t: Owner, options: FargateOptions = {}, { build, ...rest }: SetupOptions & { build?: (app: FastifyInstance) => unknown } = {}
): Promise<Setup> {
  const made = setup(t, rest)
  await made.app.register(made.plugin, options)
  await build?.(made.app)
  await made.app.ready()
  await made.clock.settle()
  return made
}

/** An application that listens on a port of its own. */
export async function listen (...args: Parameters<typeof start>): Promise<Setup & { port: number }> {
  const made = await start(...args)
  await made.app.listen({ port: 0, host: '127.0.0.1' })
  return { ...made, port: (made.app.server.address() as { port: number }).port }
}
