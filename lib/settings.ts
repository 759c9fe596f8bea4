import { FARGATE_ERR_BAD_SETTING } from './errors.js'

/**
 * The one table of settings. Parsing, ranges, error texts, the README's table and the types' docs follow it
 * (`test/settings.ts` holds them together).
 */
export interface Setting {
  env: string
  /** As the README and the errors print it. */
  legal: string
  /** As the README prints it. A default that is derived from other settings is computed in config.ts. */
  default: string
  parse: (raw: unknown) => unknown
}

/** Seconds. `fargateMax` is the bound on Fargate where it is lower than elsewhere. */
function seconds (min: number, max: number) {
  const legal = `${min}-${max} s`
  return {
    legal,
    parse (raw: unknown): number {
      const value = parseSeconds(raw)
      if (value < min || value > max) throw new Misfit('out of range', `Give it a value of ${min} to ${max} seconds`)
      return value
    }
  }
}

function oneOf (...values: string[]) {
  return {
    legal: values.map((value) => `\`${value}\``).join(', '),
    parse (raw: unknown): string {
      if (typeof raw !== 'string' || !values.includes(raw)) throw new Misfit('no legal value', 'Give it one of these')
      return raw
    }
  }
}

const path = {
  legal: 'absolute path, or `false`',
  parse (raw: unknown): string | false {
    if (raw === false || raw === 'false') return false
    if (typeof raw !== 'string') throw new Misfit('no path', 'Write "/health" or false')
    if (!raw.startsWith('/')) throw new Misfit('not absolute', `Write "/${raw}"`)
    if (/[?#:*\s]/.test(raw)) throw new Misfit('no plain path', 'Leave out ? # : * and white space')
    return raw
  }
}

export const settings = {
  stopTimeout: { env: 'FARGATE_STOP_TIMEOUT', default: '30', ...seconds(2, 3600) },
  deregistrationDelay: { env: 'FARGATE_DEREGISTRATION_DELAY', default: '20', ...seconds(0, 3600) },
  deregistration: { env: 'FARGATE_DEREGISTRATION', default: '`traffic`', ...oneOf('traffic', 'delay', 'none') },
  quiet: { env: 'FARGATE_QUIET', default: '3', ...seconds(0, 120) },
  margin: { env: 'FARGATE_MARGIN', default: 'stopTimeout / 15, within 0.5-2', ...seconds(0.1, 60) },
  closeReserve: { env: 'FARGATE_CLOSE_RESERVE', default: '2/7 of the deadline', ...seconds(0.1, 3600) },
  abortGrace: { env: 'FARGATE_ABORT_GRACE', default: 'a tenth of the deadline, within 0.25-3', ...seconds(0.05, 600) },
  readinessPath: { env: 'FARGATE_READINESS_PATH', default: '`/health/ready`', ...path },
  livenessPath: { env: 'FARGATE_LIVENESS_PATH', default: '`/health/live`', ...path },
  websocketClose: { env: 'FARGATE_WEBSOCKET_CLOSE', default: '`closing`', ...oneOf('closing', 'draining', 'none') },
  websocketPace: { env: 'FARGATE_WEBSOCKET_PACE', default: '0', ...seconds(0, 120) },
  crash: { env: 'FARGATE_CRASH', default: '`close`', ...oneOf('close', 'drain', 'exit') },
  stopSignal: {
    env: 'FARGATE_STOP_SIGNAL',
    default: '`SIGTERM`',
    ...oneOf('SIGTERM', 'SIGINT', 'SIGQUIT', 'SIGHUP', 'SIGUSR2')
  }
} satisfies Record<string, Setting>

export type SettingKey = keyof typeof settings

export const settingKeys = Object.keys(settings) as SettingKey[]

/** A value that does not fit, and what to do about it; `parseSetting` adds where it stood. */
class Misfit extends Error {
  readonly fix: string
  constructor (message: string, fix: string) {
    super(message)
    this.fix = fix
  }
}

/**
 * The value of a setting.
 * @param where `option stopTimeout` or `environment variable FARGATE_STOP_TIMEOUT`
 * @throws FARGATE_ERR_BAD_SETTING
 */
export function parseSetting<K extends SettingKey> (key: K, raw: unknown, where: string): ReturnType<(typeof settings)[K]['parse']> {
  const setting: Setting = settings[key]
  try {
    if (raw === '') throw new Misfit('empty', 'Remove it, or give it a value')
    return setting.parse(raw) as ReturnType<(typeof settings)[K]['parse']>
  } catch (error) {
    const { message, fix } = error as Misfit
    throw new FARGATE_ERR_BAD_SETTING(where, show(raw), message, setting.legal.replaceAll('`', '"'), `${fix}.`)
  }
}

const UNITS = { ms: 0.001, s: 1, m: 60 }

/** Seconds from `30`, `"30"`, `"30s"`, `"1500ms"`, `"2m"`. */
export function parseSeconds (raw: unknown): number {
  if (typeof raw === 'number' && Number.isFinite(raw)) return raw
  const match = typeof raw === 'string' ? /^(-?\d+(?:\.\d+)?)(ms|s|m)?$/.exec(raw) : null
  if (match === null) {
    throw new Misfit('no duration', 'Write seconds as in the task definition (30), or a number with a unit and no space ("1500ms", "30s", "2m")')
  }
  return Number(match[1]) * UNITS[(match[2] ?? 's') as keyof typeof UNITS]
}

export function show (value: unknown): string {
  if (typeof value === 'string') return `"${value}"`
  if (typeof value === 'function') return 'a function'
  if (typeof value === 'object' && value !== null) return Array.isArray(value) ? 'an array' : 'an object'
  return String(value)
}
