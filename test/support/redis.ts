// A real Redis, on a port of its own, that keeps nothing.

import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import { createInterface } from 'node:readline'
import { type Owner } from './service.js'

const REDIS = process.env.REDIS_SERVER ?? 'redis-server'

/** Why tests with Redis cannot run here; `false`: they can. In CI they run, and fail: a proof that silently did not run is none. */
export const noRedis = process.env.CI || spawnSync(REDIS, ['--version']).status === 0 ? false : 'there is no redis-server: apt-get install redis-server'
if (noRedis !== false) console.warn(`NOT TESTED with BullMQ: ${noRedis}`)

export interface Redis {
  readonly port: number
  /** It is gone, and answers nobody any more. */
  kill: () => Promise<void>
}

export async function startRedis (t: Owner): Promise<Redis> {
  const port = await freePort()
  const child = spawn(REDIS, ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', '/tmp'], { stdio: ['ignore', 'pipe', 'ignore'] })
  const exited = once(child, 'exit')
  const kill = async () => {
    child.kill('SIGKILL')
    await exited
  }
  t.teardown(kill)
  await new Promise<void>((resolve, reject) => {
    createInterface({ input: child.stdout }).on('line', (line) => { if (line.includes('Ready to accept connections')) resolve() })
    child.once('exit', (code) => { reject(new Error(`redis-server ended with ${code}`)) })
  })
  return { port, kill }
}

async function freePort (): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}
