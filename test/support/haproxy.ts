// A real load balancer: HAProxy as the nearest thing to an Application Load Balancer that runs on a laptop.
//
//   ALB                                            here
//   -------------------------------------------    ------------------------------------------------------------
//   target not registered                          `maint(server)`: no requests, no health checks
//   target registered, first check has passed      `register(server, port)`: address set, one passed check, UP
//   deregistered; `draining`                       `drain(server)`: no new request, those in flight may end
//   nodes that learn late of a deregistration      the test calls `drain` late: HAProxy itself learns at once
//   unhealthy: readiness has failed twice          `fall` checks in a row failed: no new request, the others may end
//   never retries (assumed)                        `retries 0`, no redispatch: what one server loses, the client loses
//   keeps and shares connections to targets        `http-reuse aggressive`, no limit and no early close of idle ones
//   502 when a reused connection is closed on it   502, or the client's connection is closed, silently: lost all the same
//
// Where it is unlike an ALB: one node instead of many; with no healthy server it answers 503 instead of asking all of
// them, so keep one healthy; checks every 200 ms instead of 5 s and more.
//
// Clients come in over a UNIX socket: no port to race for, nothing in the kernel between client and balancer that could
// lose a connection, so whatever is lost was lost behind the balancer.

import { spawn, spawnSync } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Owner } from './service.js'

// Debian keeps it where the PATH of a plain user does not look.
const HAPROXY = process.env.HAPROXY ?? 'haproxy'
const ENV = { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/local/sbin:/usr/sbin` }

export interface BalancerOptions {
  /** How many servers: `s1`, `s2`, ... They begin in `maint`. */
  servers: number
  checkPath?: string
  checkIntervalMs?: number
  fall?: number
  rise?: number
}

export interface ServerState {
  /** `UP`, `DOWN`, `DRAIN`, `MAINT`, `no check`, or a count on the way such as `UP 1/2`. */
  status: string
  /** Requests that are at the server now. */
  inFlight: number
  /** Requests that were ever given to it. */
  requests: number
  /** Idle connections that the balancer keeps to it. */
  idle: number
}

export interface Balancer {
  /** Where clients connect: `http.request({ socketPath })`. */
  readonly socketPath: string
  /** What HAProxy has logged: changes of state, and the requests that failed (with their `x-request-id`). */
  readonly log: string[]
  /** A fresh address, checks on, and resolved once a check has passed. Whatever the server was before is gone. */
  register: (server: string, port: number) => Promise<void>
  setAddr: (server: string, port: number) => Promise<void>
  ready: (server: string) => Promise<void>
  drain: (server: string) => Promise<void>
  maint: (server: string) => Promise<void>
  /** Whether health checks may tell the balancer anything about the server. */
  checks: (server: string, on: boolean) => Promise<void>
  state: (server: string) => Promise<ServerState>
  /** Resolves when health checks have taken the server out, counted from the call. */
  down: (server: string) => Promise<void>
  /** A command for the admin socket, and its answer. */
  command: (text: string) => Promise<string>
  stop: () => Promise<void>
}

/** Why there is no HAProxy here, or undefined if there is. */
export function missing (): string | undefined {
  const { error, status, stdout } = spawnSync(HAPROXY, ['-v'], { env: ENV, encoding: 'utf8' })
  if (error === undefined && status === 0 && /version (2\.[2-9]|2\.\d\d|[3-9]\.)/.test(stdout)) return undefined
  return `HAProxy 2.2 or newer is not installed (${error?.message ?? stdout.split('\n')[0]}): try apt-get install haproxy`
}

/**
 * For `t.test(name, { skip: needsHaproxy() }, ...)`. Without HAProxy the test is skipped and says so aloud; in CI it is
 * not skipped, and fails on the missing binary: a proof that silently did not run is none.
 */
export function needsHaproxy (): string | false {
  const reason = missing()
  if (reason === undefined || (process.env.CI ?? '') !== '') return false
  console.warn(`NOT TESTED behind a load balancer: ${reason}`)
  return reason
}

export async function startBalancer (t: Owner, options: BalancerOptions): Promise<Balancer> {
  const folder = await mkdtemp(join(tmpdir(), 'haproxy-'))
  const file = join(folder, 'haproxy.cfg')
  const socketPath = join(folder, 'front')
  const adminPath = join(folder, 'admin')
  await writeFile(file, configuration(options, socketPath, adminPath))

  // -db: in the foreground, so that the process that is ended is the one that serves.
  const child = spawn(HAPROXY, ['-db', '-f', file], { env: ENV, stdio: ['ignore', 'pipe', 'pipe'] })
  const log: string[] = []
  const listeners = new Set<(line: string) => void>()
  let stderr = ''
  let ended = false
  child.stderr.setEncoding('utf8').on('data', text => { stderr += text })
  createInterface({ input: child.stdout }).on('line', line => {
    log.push(line)
    for (const listener of listeners) listener(line)
  })
  const closed = new Promise<void>(resolve => {
    child.once('error', error => { stderr += String(error); ended = true; resolve() })
    child.once('close', () => { ended = true; resolve() })
  })

  async function command (text: string): Promise<string> {
    return await new Promise((resolve, reject) => {
      let answer = ''
      connect(adminPath)
        .setEncoding('utf8')
        .on('data', chunk => { answer += chunk })
        .on('error', reject)
        .on('end', () => resolve(answer.trim()))
        .end(text + '\n')
    })
  }

  /** For commands that say something only when they refuse. */
  async function order (text: string): Promise<void> {
    const answer = await command(text)
    if (answer !== '') throw new Error(`HAProxy refused "${text}": ${answer}`)
  }

  async function logged (pattern: RegExp, act: () => Promise<void>): Promise<void> {
    let listener = (_line: string): void => {}
    const seen = new Promise<void>(resolve => {
      listener = line => { if (pattern.test(line)) resolve() }
    })
    listeners.add(listener)
    try {
      await act()
      await Promise.race([seen, closed.then(() => { throw new Error(`HAProxy has ended: ${stderr}`) })])
    } finally {
      listeners.delete(listener)
    }
  }

  const balancer: Balancer = {
    socketPath,
    log,
    command,
    async register (server, port) {
      await balancer.maint(server)
      await balancer.setAddr(server, port)
      await order(`enable health be/${server}`)
      // Out of `maint` HAProxy takes a server for healthy at once. An ALB wants one passed check first.
      await logged(new RegExp(`Server be/${server} is UP, reason`), async () => {
        await balancer.ready(server)
        await order(`set server be/${server} health down`)
      })
    },
    async setAddr (server, port) {
      const answer = await command(`set server be/${server} addr 127.0.0.1 port ${port}`)
      if (!/port changed|no need to change/.test(answer)) throw new Error(`HAProxy refused the address of ${server}: ${answer}`)
    },
    ready: async server => { await order(`set server be/${server} state ready`) },
    drain: async server => { await order(`set server be/${server} state drain`) },
    maint: async server => { await order(`set server be/${server} state maint`) },
    checks: async (server, on) => { await order(`${on ? 'enable' : 'disable'} health be/${server}`) },
    async state (server) {
      const [head = '', ...rows] = (await command('show stat be 4 -1')).split('\n')
      const names = head.replace('# ', '').split(',')
      const row = rows.map(row => row.split(',')).find(row => row[names.indexOf('svname')] === server)
      if (row === undefined) throw new Error(`no server ${server}`)
      const value = (name: string): string => row[names.indexOf(name)] ?? ''
      return {
        status: value('status'),
        inFlight: Number(value('scur')),
        requests: Number(value('stot')),
        idle: Number(value('idle_conn_cur'))
      }
    },
    down: async server => { await logged(new RegExp(`Server be/${server} is DOWN, reason`), async () => {}) },
    async stop () {
      if (!ended) child.kill('SIGKILL')
      await closed
      await rm(folder, { recursive: true, force: true })
    }
  }
  t.teardown(() => balancer.stop())

  // HAProxy says nothing when it is up: its admin socket answers, that is all.
  for (;;) {
    if (ended) throw new Error(`HAProxy has not started: ${missing() ?? stderr}`)
    try {
      await command('show info')
      return balancer
    } catch {
      await sleep(10)
    }
  }
}

function configuration (options: BalancerOptions, socketPath: string, adminPath: string): string {
  const { servers, checkPath = '/health/ready', checkIntervalMs = 200, fall = 2, rise = 1 } = options
  const server = (_: unknown, index: number): string =>
    `  server s${index + 1} 127.0.0.1:1 check inter ${checkIntervalMs}ms fall ${fall} rise ${rise} disabled`
  return `
global
  nbthread 1
  maxconn 4000
  log stdout format raw local0 info
  stats socket ${adminPath} mode 600 level admin

defaults
  mode http
  log global
  option dontlog-normal
  log-format "%ST %ts %b/%s in flight %sc, %U bytes, after %Tt ms, id %[capture.req.hdr(0)]: %{+Q}r"
  option http-keep-alive
  retries 0
  timeout connect 10s
  timeout client 120s
  timeout server 120s
  timeout http-request 120s
  timeout http-keep-alive 120s
  timeout queue 10s
  timeout check 5s

frontend fe
  bind unix@${socketPath} backlog 2000
  capture request header x-request-id len 20
  http-after-response set-header x-server %[srv_name]
  default_backend be

backend be
  balance roundrobin
  http-reuse aggressive
  option httpchk
  http-check send meth GET uri ${checkPath} ver HTTP/1.1 hdr Host 127.0.0.1 hdr User-Agent ELB-HealthChecker/2.0
  http-check expect status 200
${Array.from({ length: servers }, server).join('\n')}
`
}
