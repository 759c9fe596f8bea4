// Starts a fixture of test/fixtures as a process of its own: real signals, real exit codes, real log lines.
//
// But for the TypeScript loader the child is as bare as in production. That takes an effort: tap puts its process tracker
// into NODE_OPTIONS, and the tracker listens for SIGTERM and patches `process.exit`. So it comes along only where coverage
// is measured; a test that cares about the listeners on `process`, or about speed, says `coverage: false`.

import { spawn, type ChildProcess } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { performance } from 'node:perf_hooks'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

/** What is needed of a tap test: a place to hang the clean-up on. */
export interface Owner {
  teardown: (fn: () => Promise<void> | void) => void
}

export type Line = Record<string, any>

export interface StartOptions {
  /** Added to the environment of the test; `undefined` removes a variable. */
  env?: Record<string, string | undefined>
  /** Arguments of the fixture. */
  args?: readonly string[]
  /** Another Node.js. */
  execPath?: string
  /** Flags for Node.js, before those of the TypeScript loader. */
  execArgv?: readonly string[]
  /** What stands before node, e.g. `['tini', '--']`, or a function from the command line to another: `argv => ['sh', '-c', argv.join(' ')]`. */
  wrapper?: readonly string[] | ((argv: string[]) => string[])
  /** `false`: never measure coverage in the child. Default: as tap does in this process. */
  coverage?: boolean
  /** `false`: return at once, for tests about a start that does not end. `service.ready` is still there. */
  ready?: boolean
}

export interface Exit {
  code: number | null
  signal: NodeJS.Signals | null
  /** Every JSON line of stdout, in order. */
  lines: Line[]
  /** The shutdown report: the last line that has one. */
  report: Line | undefined
  stdout: string
  stderr: string
  /** Milliseconds from the first `kill()` to the exit; without a `kill()`, from the start. */
  exitedAtMs: number
}

export interface Service {
  readonly child: ChildProcess
  /** Of the process that was started, which is the wrapper's if there is one. */
  readonly pid: number
  /** 0 until the fixture has told it. */
  readonly port: number
  /** Everything that came over IPC, in order. */
  readonly messages: any[]
  /** The JSON lines so far. */
  readonly lines: Line[]
  /** Settles when the fixture says it listens; rejects when it ends before. */
  readonly ready: Promise<Service>
  /** Settles when the process has ended and all of its output was read. Never rejects. */
  readonly exited: Promise<Exit>
  /** The first line, past or future, that matches. Rejects when the process ends without it. */
  line: (match: (line: Line) => boolean) => Promise<Line>
  /** The same for IPC messages. */
  message: (match: (message: any) => boolean) => Promise<any>
  send: (message: any) => void
  /**
   * Sends a signal, to what was started or to another pid: ECS signals PID 1 of the container, which under
   * `wrapper: ['unshare', '--pid', '--fork', ...]` is `childOf(service.pid)`. The first one starts the clock of `exitedAtMs`.
   */
  kill: (signal: NodeJS.Signals, pid?: number) => void
}

const ORPHAN_MS = 1000

/**
 * Starts `test/fixtures/<fixture>.ts` and waits until it says where it listens: an IPC message `{ port }`, or a line
 * `{"port":…}` on stdout where a wrapper does not hand IPC through. What is left at the end of the test gets SIGKILL.
 */
export async function start (t: Owner, fixture: string, options: StartOptions = {}): Promise<Service> {
  const file = fileURLToPath(new URL(`../fixtures/${fixture}.ts`, import.meta.url))
  const measured = (options.coverage ?? true) && process.env._TAPJS_PROCESSINFO_COVERAGE_ === '1'
  const command = [
    // The tracker also patches `spawn`, and puts itself back into whatever environment we ask for: only env(1) gets rid of it.
    ...measured ? [] : ['env', ...bareEnvironment()],
    options.execPath ?? process.execPath,
    ...options.execArgv ?? [],
    '--enable-source-maps',
    `--import=${new URL('typescript.js', import.meta.url).href}`,
    file,
    ...options.args ?? []
  ]
  const wrapper = options.wrapper ?? []
  const [program = '', ...args] = typeof wrapper === 'function' ? wrapper(command) : [...wrapper, ...command]

  // A group of its own, so that what a wrapper has started can be ended together with it.
  const child = spawn(program, args, {
    env: environment(measured, options.env),
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    detached: true
  })
  const startedMs = performance.now()
  let killedMs: number | undefined
  let exitMs = startedMs
  let port = 0
  let stdout = ''
  let stderr = ''
  const lines = new Log<Line>()
  const messages = new Log<any>()

  child.stderr?.setEncoding('utf8').on('data', text => { stderr += text })
  if (child.stdout !== null) {
    createInterface({ input: child.stdout }).on('line', text => {
      stdout += text + '\n'
      const line = parse(text)
      if (line !== undefined) lines.push(line)
    })
  }
  child.on('message', message => messages.push(message))

  const exited = new Promise<Exit>(resolve => {
    child.once('error', error => { stderr += String(error) })
    child.once('exit', (code, signal) => {
      exitMs = performance.now()
      // The output is whole at 'close', which never comes while the child of a dead wrapper holds the pipes.
      setTimeout(() => finish(code, signal), ORPHAN_MS).unref()
    })
    child.once('close', finish)
    function finish (code: number | null, signal: NodeJS.Signals | null): void {
      const end = new Error(`${fixture} has ended (code ${code}, signal ${signal})\n${stdout.slice(-2000)}${stderr.slice(-4000)}`)
      lines.end(end)
      messages.end(end)
      resolve({
        code,
        signal,
        lines: lines.all,
        report: lines.all.findLast(line => line.report !== undefined)?.report,
        stdout,
        stderr,
        exitedAtMs: exitMs - (killedMs ?? startedMs)
      })
    }
  })

  const service: Service = {
    child,
    pid: child.pid ?? 0,
    get port () { return port },
    messages: messages.all,
    lines: lines.all,
    ready: Promise.race([messages.first(hasPort), lines.first(hasPort)]).then(message => {
      port = message.port
      return service
    }),
    exited,
    line: match => lines.first(match),
    message: match => messages.first(match),
    send: message => { child.send(message) },
    kill (signal, pid = child.pid) {
      killedMs ??= performance.now()
      // A process that has just ended by itself is for the test to notice, by its exit code.
      if (pid !== undefined) try { process.kill(pid, signal) } catch {}
    }
  }
  service.ready.catch(() => {})

  t.teardown(async () => {
    if (child.pid === undefined) return
    // The group outlives its leader where a wrapper has died first.
    try { process.kill(-child.pid, 'SIGKILL') } catch {}
    await exited
  })
  if (options.ready ?? true) await service.ready
  return service
}

/** The first child of a process, as its parent's pid namespace sees it. */
export function childOf (pid: number): number {
  return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ')[0])
}

function hasPort (message: any): boolean {
  return typeof message?.port === 'number' && message.port > 0
}

function parse (text: string): Line | undefined {
  if (!text.startsWith('{')) return undefined
  try { return JSON.parse(text) } catch { return undefined }
}

/** NODE_OPTIONS without the tracker of tap, as arguments of env(1). */
export function bareEnvironment (): string[] {
  const rest = (process.env.NODE_OPTIONS ?? '').match(/"(?:\\.|[^"\\])*"|\S+/g)?.filter(flag => !flag.includes('@tapjs/processinfo')) ?? []
  return rest.length === 0 ? ['-u', 'NODE_OPTIONS'] : [`NODE_OPTIONS=${rest.join(' ')}`]
}

function environment (measured: boolean, extra: StartOptions['env'] = {}): NodeJS.ProcessEnv {
  const env: NodeJS.ProcessEnv = { ...process.env }
  if (!measured) {
    for (const key of Object.keys(env)) {
      // TAP_TSCONFIG and its like belong to the TypeScript loader.
      if (key.startsWith('_TAPJS_PROCESSINFO_')) delete env[key]
    }
  }
  for (const [key, value] of Object.entries(extra)) {
    if (value === undefined) delete env[key]
    else env[key] = value
  }
  return env
}

/** What was said so far, and whoever waits for something to be said. */
class Log<T> {
  readonly all: T[] = []
  readonly #waiting = new Set<{ match: (entry: T) => boolean, resolve: (entry: T) => void, reject: (error: Error) => void }>()
  #end: Error | undefined

  push (entry: T): void {
    this.all.push(entry)
    for (const waiter of this.#waiting) {
      if (!waiter.match(entry)) continue
      this.#waiting.delete(waiter)
      waiter.resolve(entry)
    }
  }

  end (error: Error): void {
    this.#end = error
    for (const { reject } of this.#waiting) reject(error)
    this.#waiting.clear()
  }

  async first (match: (entry: T) => boolean): Promise<T> {
    const index = this.all.findIndex(match)
    if (index >= 0) return this.all[index] as T
    if (this.#end !== undefined) throw this.#end
    return await new Promise((resolve, reject) => this.#waiting.add({ match, resolve, reject }))
  }
}
