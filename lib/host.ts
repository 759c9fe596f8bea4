import { readFileSync } from 'node:fs'
import closeWithGrace from 'close-with-grace'
import { type Environment } from './config.js'

/** The process as the coordinator sees it. Tests bring their own and see "would exit 0" as a value. */
export interface Host {
  readonly env: Environment
  on (event: string, listener: (...args: any[]) => void): void
  off (event: string, listener: (...args: any[]) => void): void
  /** Calls `fn` when the process exits, whoever ends it. */
  atExit (fn: () => void): void
  listeners (event: string): Function[]
  /** Runs `close` once, then exits: with 0, with 1 when it rejects, and after `limitMs` with 1 in any case. */
  closeAndExit (close: () => Promise<void>, limitMs: number, onLate: () => void): void
  exit (code: number): void
  /** The command of process 1 of this container, unless that is this process; `undefined` where it cannot be told. */
  initCommand (): string | undefined
}

export const systemHost: Host = {
  env: process.env,
  on: (event, listener) => { process.on(event, listener) },
  off: (event, listener) => { process.off(event, listener) },
  // Before the logger's own listener, which writes what is left.
  atExit: (fn) => { process.prependListener('exit', fn) },
  listeners: (event) => process.listeners(event as NodeJS.Signals),
  closeAndExit (close, limitMs, onLate) {
    // All events are skipped: the policy about signals and errors is the coordinator's. What stays is that the close
    // runs once, is bounded, and ends the process with the right code.
    const { close: begin } = closeWithGrace({ delay: limitMs, logger: false, skip: [...ALL_EVENTS], onTimeout: onLate }, close)
    begin()
  },
  exit: (code) => { process.exit(code) },
  initCommand () {
    if (process.pid === 1) return undefined
    try {
      return readFileSync('/proc/1/cmdline', 'utf8').replaceAll('\0', ' ').trim()
    } catch {
      return undefined
    }
  }
}

/** Everything close-with-grace would listen to. */
const ALL_EVENTS = [
  'SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGILL', 'SIGTRAP', 'SIGABRT', 'SIGBUS', 'SIGFPE', 'SIGSEGV', 'SIGUSR2', 'SIGTERM',
  'uncaughtException', 'unhandledRejection', 'beforeExit'
] as const
