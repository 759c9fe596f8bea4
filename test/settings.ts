import t from 'tap'
import { resolveConfig } from '../lib/config.js'
import { parseSeconds, parseSetting, settingKeys, settings, show, type SettingKey } from '../lib/settings.js'

const DURATIONS = ['stopTimeout', 'deregistrationDelay', 'quiet', 'margin', 'closeReserve', 'abortGrace', 'websocketPace'] as const
const PATHS = ['readinessPath', 'livenessPath'] as const
const CHOICES = ['deregistration', 'websocketClose', 'crash', 'stopSignal'] as const

/** The bounds, once more, so that a slip in the table shows. */
const BOUNDS = {
  stopTimeout: [2, 3600],
  deregistrationDelay: [0, 3600],
  quiet: [0, 120],
  websocketPace: [0, 120],
  margin: [0.1, 60],
  closeReserve: [0.1, 3600],
  abortGrace: [0.05, 600]
} as const

function refusal (act: () => unknown): { code?: string, message: string } {
  try {
    act()
  } catch (error) {
    return error as { code?: string, message: string }
  }
  return { message: 'it was accepted' }
}

t.test('the settings are these, and each is a duration, a path or a choice', async (t) => {
  t.strictSame([...settingKeys].sort(), [...DURATIONS, ...PATHS, ...CHOICES].sort())
})

for (const key of settingKeys) {
  const { env, legal } = settings[key]

  t.test(`${key} is FARGATE_ and its own name in the environment`, async (t) => {
    t.equal(env, 'FARGATE_' + key.replace(/[A-Z]/g, (letter) => '_' + letter).toUpperCase())
  })

  for (const [where, give] of [
    [`option ${key}`, (value: unknown) => resolveConfig({ [key]: value }, {})],
    [`environment variable ${env}`, (value: unknown) => resolveConfig({}, { [env]: value as string })]
  ] as const) {
    t.test(`${where}: a bad value is refused with its name, the value, what is legal, and what to do`, async (t) => {
      const { code, message } = refusal(() => give('%nonsense'))
      t.equal(code, 'FARGATE_ERR_BAD_SETTING')
      t.ok(message.startsWith(`${where}: "%nonsense" is `), message)
      t.ok(message.includes(`Expected ${legal.replaceAll('`', '"')}. `), message)
      t.match(message, /(Write|Give) .*\.$/, 'what to do')
    })

    t.test(`${where}: an empty value is refused, not taken for a default`, async (t) => {
      const { code, message } = refusal(() => give(''))
      t.equal(code, 'FARGATE_ERR_BAD_SETTING')
      t.match(message, `${where}: "" is empty.`)
      t.match(message, 'Remove it, or give it a value.')
    })
  }

  t.test(`option ${key}: no value of a wrong type is accepted`, async (t) => {
    for (const value of [null, true, {}, [], ['/a'], Symbol('s'), 10n, new Date(0)]) {
      t.match(refusal(() => parseSetting(key, value, `option ${key}`)), { code: 'FARGATE_ERR_BAD_SETTING' }, show(value))
    }
    // A function is a deregistration strategy, but that is for config.ts to know.
    t.match(refusal(() => parseSetting(key, () => {}, `option ${key}`)), {
      code: 'FARGATE_ERR_BAD_SETTING', message: /a function is no/
    })
  })
}

t.test('durations', async (t) => {
  for (const key of DURATIONS) {
    const [min, max] = BOUNDS[key]
    const parse = (value: unknown) => parseSetting(key, value, 'here')

    t.test(`${key}: ${min} and ${max} s are legal, a thousandth beyond is not`, async (t) => {
      t.equal(parse(min), min)
      t.equal(parse(max), max)
      t.equal(parse(String(max)), max)
      for (const value of [min - 0.001, max + 0.001]) {
        t.match(refusal(() => parse(value)), {
          code: 'FARGATE_ERR_BAD_SETTING',
          message: `here: ${value} is out of range. Expected ${min}-${max} s. Give it a value of ${min} to ${max} seconds.`
        })
      }
    })

    t.test(`${key}: what is no duration is refused`, async (t) => {
      for (const value of [
        NaN, Infinity, -Infinity, 'x', 'NaN', 'Infinity', ' ', '30 s', ' 30', '30 ', '30sec', '30h', '30S', '1e1', '0x10', '1,5', '+5',
        '.5', '5.', '--5', '5-10', 's', 'ms', '30\n', '٣'
      ]) {
        t.match(refusal(() => parse(value)), {
          code: 'FARGATE_ERR_BAD_SETTING', message: / is no duration\. .*Write seconds .*"1500ms", "30s", "2m"\)\.$/
        }, show(value))
      }
    })

    t.test(`${key}: a negative time is out of range`, async (t) => {
      for (const value of [-1, '-1', '-0.001s', '-5ms']) t.match(refusal(() => parse(value)), { message: 'is out of range' }, show(value))
    })
  }

  t.test('a duration is a number of seconds, or a string with or without a unit', async (t) => {
    for (const [raw, value] of [[30, 30], ['30', 30], ['30s', 30], ['1500ms', 1.5], ['2m', 120], ['0.5', 0.5], ['0.5m', 30], [0, 0], ['0', 0]] as const) {
      t.equal(parseSeconds(raw), value, show(raw))
    }
  })
})

t.test('paths', async (t) => {
  for (const key of PATHS) {
    const parse = (value: unknown) => parseSetting(key, value, 'here')

    t.test(`${key}: an absolute path, or false as a value or as a word`, async (t) => {
      for (const value of ['/', '/health', '/a/b-c_d.e/~f', '/%20']) t.equal(parse(value), value)
      t.equal(parse(false), false)
      t.equal(parse('false'), false)
    })

    t.test(`${key}: a path without its slash is refused, and shown with it`, async (t) => {
      t.match(refusal(() => parse('health/ready')), { message: 'here: "health/ready" is not absolute. Expected absolute path, or "false". Write "/health/ready".' })
      t.match(refusal(() => parse('http://x/health')), { message: 'is not absolute' })
    })

    t.test(`${key}: parameters, wildcards, queries, fragments and white space are refused`, async (t) => {
      for (const value of ['/a?b', '/a#b', '/:id', '/a/*', '/*', '/a b', '/a\t', '/a\n', '/ ', '/health/:']) {
        t.match(refusal(() => parse(value)), {
          code: 'FARGATE_ERR_BAD_SETTING', message: /is no plain path\. .* Leave out \? # : \* and white space\.$/
        }, show(value))
      }
    })

    t.test(`${key}: what is neither a string nor false is no path`, async (t) => {
      for (const value of [true, 0, 1, null]) t.match(refusal(() => parse(value)), { message: `here: ${value} is no path.` }, show(value))
    })
  }
})

t.test('choices', async (t) => {
  const choices: Record<typeof CHOICES[number], string[]> = {
    deregistration: ['traffic', 'delay', 'none'],
    websocketClose: ['closing', 'draining', 'none'],
    crash: ['close', 'drain', 'exit'],
    stopSignal: ['SIGTERM', 'SIGINT', 'SIGQUIT', 'SIGHUP', 'SIGUSR2']
  }
  for (const key of CHOICES) {
    t.test(`${key}: each of its words, and no other`, async (t) => {
      for (const value of choices[key]) t.equal(parseSetting(key, value, 'here'), value)
      t.equal(settings[key].legal, choices[key].map((value) => `\`${value}\``).join(', '), 'all of them are listed')
      for (const value of ['Traffic', 'sigterm', 'CLOSE', ' none', 'SIGKILL', 'true', 0, 1, false]) {
        t.match(refusal(() => parseSetting(key as SettingKey, value, 'here')), { message: 'is no legal value.' }, show(value))
      }
    })
  }
})

t.test('show: a value as an error prints it, short whatever it is', async (t) => {
  const shown: Array<[unknown, string]> = [
    ['30 s', '"30 s"'], ['', '""'], [30, '30'], [NaN, 'NaN'], [null, 'null'], [undefined, 'undefined'], [true, 'true'],
    [() => {}, 'a function'], [[1], 'an array'], [{ a: 1 }, 'an object'], [Symbol('s'), 'Symbol(s)'], [1n, '1']
  ]
  for (const [value, text] of shown) t.equal(show(value), text)
})
