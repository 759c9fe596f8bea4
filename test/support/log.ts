// A log that remembers its lines.

import { type FastifyBaseLogger } from 'fastify'
import { pino } from 'pino'

export interface LogLine {
  level: 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal'
  msg: string
  [key: string]: any
}

export interface MemoryLog {
  readonly log: FastifyBaseLogger
  readonly lines: LogLine[]
  /** The messages of one level. */
  of: (level: LogLine['level']) => string[]
}

/** A real pino, so that what is logged has to be what pino can log. */
export function memoryLog (level: LogLine['level'] | 'silent' = 'info'): MemoryLog {
  const lines: LogLine[] = []
  const log = pino({ level, base: null, timestamp: false, formatters: { level: (label) => ({ level: label }) } }, {
    write (line: string) { lines.push(JSON.parse(line)) }
  })
  return { log, lines, of: (wanted) => lines.filter((line) => line.level === wanted).map(({ msg }) => msg) }
}
