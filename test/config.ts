import t from 'tap'
import { detectPlatform, resolveConfig, type Environment } from '../lib/config.js'
import { settingKeys, settings, show } from '../lib/settings.js'
import { computeTimeline } from '../lib/timeline.js'
import { type FargateOptions } from '../types/index.js'
import { random } from './support/random.js'

const ECS: Environment = { ECS_CONTAINER_METADATA_URI_V4: 'http://169.254.170.2/v4/x' }
const FARGATE: Environment = { ...ECS, AWS_EXECUTION_ENV: 'AWS_ECS_FARGATE' }
const EC2: Environment = { ...ECS, AWS_EXECUTION_ENV: 'AWS_ECS_EC2' }

/** Options as JavaScript hands them over: of any shape. */
const resolve = (options: unknown, env: Environment = {}) => resolveConfig(options as FargateOptions, env)

function refusal (options: unknown, env: Environment = {}): { code?: string, message: string } {
  try {
    resolve(options, env)
  } catch (error) {
    return error as { code?: string, message: string }
  }
  return { message: 'it was accepted' }
}

t.test('defaults', async (t) => {
  t.test('are those of the README', async (t) => {
    const { sources, warnings, ...values } = resolve({})
    t.strictSame(values, {
      stopTimeout: 30,
      deregistrationDelay: 20,
      deregistration: 'traffic',
      quiet: 3,
      margin: 2,
      closeReserve: 8,
      abortGrace: 2.8,
      readinessPath: '/health/ready',
      livenessPath: '/health/live',
      websocketClose: 'closing',
      websocketPace: 0,
      crash: 'close',
      stopSignal: 'SIGTERM',
      startup: [],
      readiness: undefined,
      platform: 'elsewhere'
    })
    t.strictSame(warnings, [])
    for (const key of settingKeys) t.equal(sources[key], 'default', key)
  })

  t.test('make no warning on Fargate', async (t) => {
    t.strictSame(resolve({}, FARGATE).warnings, [])
  })

  t.test('margin is a fifteenth of stopTimeout, within 0.5 and 2 s', async (t) => {
    for (const [stopTimeout, margin] of [[2, 0.5], [7.5, 0.5], [15, 1], [30, 2], [120, 2]] as const) {
      t.equal(resolve({ stopTimeout }).margin, margin, `stopTimeout ${stopTimeout}`)
    }
  })

  t.test('closeReserve is two sevenths of the deadline', async (t) => {
    t.equal(resolve({ stopTimeout: 120 }).closeReserve, 118 * 2 / 7)
    t.equal(resolve({ stopTimeout: 8, margin: 1 }).closeReserve, 2)
  })

  t.test('abortGrace is a tenth of the deadline, within 0.25 and 3 s, and not over closeReserve', async (t) => {
    t.equal(resolve({ stopTimeout: 11, margin: 1 }).abortGrace, 1)
    t.equal(resolve({ stopTimeout: 2 }).abortGrace, 0.25)
    t.equal(resolve({ stopTimeout: 120 }).abortGrace, 3)
    t.equal(resolve({ stopTimeout: 120, closeReserve: 0.2 }).abortGrace, 0.2)
  })
})

t.test('the result', async (t) => {
  t.test('is frozen, with all that is in it', async (t) => {
    const check = () => {}
    for (const options of [{}, { startup: [{ name: 'a', check }], readiness: check }]) {
      const config = resolve(options)
      t.ok(Object.isFrozen(config))
      for (const key of ['sources', 'warnings', 'startup', 'readiness'] as const) {
        if (config[key] !== undefined) t.ok(Object.isFrozen(config[key]), key)
      }
      for (const one of config.startup) t.ok(Object.isFrozen(one), one.name)
    }
  })

  t.test('does not change when the options do', async (t) => {
    const startup = [{ name: 'a', check () {} }]
    const options = { quiet: 1, startup }
    const config = resolve(options)
    options.quiet = 2
    startup.push({ name: 'b', check () {} })
    startup[0]!.name = 'c'
    t.equal(config.quiet, 1)
    t.strictSame(config.startup.map(({ name }) => name), ['a'])
  })

  t.test('does not change the options', async (t) => {
    const options = Object.freeze({ stopTimeout: '1m', readiness: Object.freeze({ check () {} }) })
    t.doesNotThrow(() => resolve(options))
  })
})

t.test('sources', async (t) => {
  t.test('the environment wins over the option, and each value says where it comes from', async (t) => {
    const config = resolve({ stopTimeout: 60, quiet: 5 }, { FARGATE_STOP_TIMEOUT: '90' })
    t.equal(config.stopTimeout, 90)
    t.equal(config.quiet, 5)
    t.match(config.sources, { stopTimeout: 'environment', quiet: 'option', margin: 'default' })
  })

  const other: Record<string, [option: unknown, env: string, value: unknown]> = {
    stopTimeout: [40, '50s', 50],
    deregistrationDelay: [10, '15', 15],
    deregistration: ['none', 'delay', 'delay'],
    quiet: [1, '2500ms', 2.5],
    margin: [1, '1.5', 1.5],
    closeReserve: [5, '6', 6],
    abortGrace: [1, '2', 2],
    readinessPath: ['/a', '/b', '/b'],
    livenessPath: ['/a', 'false', false],
    websocketClose: ['none', 'draining', 'draining'],
    websocketPace: [5, '500ms', 0.5],
    crash: ['exit', 'drain', 'drain'],
    stopSignal: ['SIGQUIT', 'SIGINT', 'SIGINT']
  }

  for (const key of settingKeys) {
    t.test(`${key} can be set by option and by ${settings[key].env}`, async (t) => {
      const [option, env, value] = other[key]!
      const byOption = resolve({ [key]: option })
      t.equal(byOption[key], option)
      t.equal(byOption.sources[key], 'option')
      const byBoth = resolve({ [key]: option }, { [settings[key].env]: env })
      t.equal(byBoth[key], value)
      t.equal(byBoth.sources[key], 'environment')
    })

    t.test(`a bad ${settings[key].env} is refused, though the option is right`, async (t) => {
      t.match(refusal({ [key]: other[key]![0] }, { [settings[key].env]: '?' }), {
        code: 'FARGATE_ERR_BAD_SETTING', message: `environment variable ${settings[key].env}: "?"`
      })
    })
  }

  t.test('undefined is no value: the default stays', async (t) => {
    const config = resolve({ stopTimeout: undefined, startup: undefined, readiness: undefined }, { FARGATE_QUIET: undefined })
    t.equal(config.stopTimeout, 30)
    t.equal(config.sources.stopTimeout, 'default')
    t.equal(config.sources.quiet, 'default')
  })
})

t.test('names', async (t) => {
  t.test('a misspelt option is refused, with the one that is meant', async (t) => {
    for (const [wrong, right] of Object.entries({
      stopTimout: 'stopTimeout',
      stoptimeout: 'stopTimeout',
      stop_timeout: 'stopTimeout',
      deregistrationDelayy: 'deregistrationDelay',
      readynessPath: 'readinessPath',
      lifenessPath: 'livenessPath',
      quite: undefined,
      qiet: 'quiet',
      crashs: 'crash',
      statup: 'startup',
      readines: 'readiness',
      stopsignal: 'stopSignal',
      closeReserver: 'closeReserve',
      // A quarter of its letters is missing.
      livenessP: 'livenessPath'
    })) {
      const { code, message } = refusal({ [wrong]: 1 })
      t.equal(code, 'FARGATE_ERR_UNKNOWN_SETTING', wrong)
      t.match(message, right === undefined ? `option ${wrong} is not known. Known options: ` : `option ${wrong} is not known. Did you mean ${right}?`)
    }
  })

  t.test('of two that are near, the nearest is meant', async (t) => {
    t.match(refusal({ readinesPath: '/x' }), { message: 'Did you mean readinessPath?' })
    t.match(refusal({ livinessPath: '/x' }), { message: 'Did you mean livenessPath?' })
    t.match(refusal({ deregistratio: 'none' }), { message: 'Did you mean deregistration?' })
  })

  t.test('an option like nothing here is refused, with all that there are', async (t) => {
    const { code, message } = refusal({ timeout: 5 })
    t.equal(code, 'FARGATE_ERR_UNKNOWN_SETTING')
    t.equal(message, `option timeout is not known. Known options: ${[...settingKeys, 'startup', 'readiness'].join(', ')}.`)
  })

  t.test('the options of fastify.register itself are not ours', async (t) => {
    t.doesNotThrow(() => resolve({ prefix: '/x', logLevel: 'warn', logSerializers: {} }))
  })

  t.test('a misspelt variable is refused, with the one that is meant', async (t) => {
    for (const [wrong, right] of Object.entries({
      FARGATE_STOPTIMEOUT: 'FARGATE_STOP_TIMEOUT',
      FARGATE_STOP_TIMEOUTS: 'FARGATE_STOP_TIMEOUT',
      FARGATE_DEREGISTRATION_DELEY: 'FARGATE_DEREGISTRATION_DELAY',
      FARGATE_READYNESS_PATH: 'FARGATE_READINESS_PATH',
      FARGATE_stop_timeout: 'FARGATE_STOP_TIMEOUT',
      FARGATE_QIET: 'FARGATE_QUIET',
      FARGATE_CRASHS: 'FARGATE_CRASH',
      FARGATE_MARGINS: 'FARGATE_MARGIN'
    })) {
      t.match(refusal({}, { [wrong]: '1' }), {
        code: 'FARGATE_ERR_UNKNOWN_SETTING', message: `environment variable ${wrong} is not known. Did you mean ${right}?`
      }, wrong)
    }
  })

  t.test('a variable of somebody else is left alone, even with our prefix', async (t) => {
    const env = Object.fromEntries([
      'FARGATE_CLUSTER', 'FARGATE_CACHE', 'FARGATE_QUEUE', 'FARGATE_BATCH', 'FARGATE_ORIGIN', 'FARGATE_REGION', 'FARGATE_TASK_ID',
      'FARGATE_', 'FARGATE', 'AWS_FARGATE_STOP_TIMEOUT', 'STOP_TIMEOUT', 'PATH', 'fargate_stop_timeout'
    ].map((name) => [name, 'x']))
    for (const name of Object.keys(env)) t.doesNotThrow(() => resolve({}, { [name]: 'x' }), name)
  })

  t.test('options that are no object are refused', async (t) => {
    for (const options of [null, 30, 'x', true]) {
      t.match(refusal(options), { code: 'FARGATE_ERR_BAD_SETTING', message: `options: ${show(options)} is no object. Expected an object.` })
    }
  })
})

t.test('values that cannot work together', async (t) => {
  t.test('a margin of stopTimeout or more leaves no time, and both numbers are shown', async (t) => {
    for (const margin of [10, 11]) {
      t.match(refusal({ stopTimeout: 10, margin }), {
        code: 'FARGATE_ERR_NO_TIME_TO_CLOSE',
        message: `margin ${margin} s is not below stopTimeout 10 s. Lower margin or raise stopTimeout.`
      })
    }
    t.doesNotThrow(() => resolve({ stopTimeout: 10, margin: 9.9 }))
  })

  t.test('a closeReserve over the deadline is refused, and all numbers are shown', async (t) => {
    t.match(refusal({ stopTimeout: 10, margin: 1, closeReserve: 9.5 }), {
      code: 'FARGATE_ERR_NO_TIME_TO_CLOSE',
      message: 'closeReserve 9.5 s is over the deadline of 9 s (stopTimeout 10 s - margin 1 s). Lower closeReserve or raise stopTimeout.'
    })
    t.doesNotThrow(() => resolve({ stopTimeout: 10, margin: 1, closeReserve: 9 }))
  })

  t.test('an abortGrace over closeReserve is refused, and both numbers are shown', async (t) => {
    t.match(refusal({ abortGrace: 8.1 }), {
      code: 'FARGATE_ERR_NO_TIME_TO_CLOSE',
      message: 'abortGrace 8.1 s is over closeReserve 8 s, so requests would be aborted while draining. Lower abortGrace or raise closeReserve.'
    })
    t.doesNotThrow(() => resolve({ abortGrace: 8 }))
  })

  t.test('tenths of seconds are counted as a person counts them', async (t) => {
    t.doesNotThrow(() => resolve({ stopTimeout: 2.3, margin: 0.1, closeReserve: 2.2 }), '2.3 - 0.1 is 2.2')
    const { message } = refusal({ stopTimeout: 2.3, margin: 0.1, closeReserve: 2.25 })
    t.match(message, 'over the deadline of 2.2 s')
  })

  t.test('readiness and liveness cannot have one path', async (t) => {
    t.match(refusal({ readinessPath: '/health', livenessPath: '/health' }), {
      code: 'FARGATE_ERR_BAD_SETTING', message: /^livenessPath: "\/health" is the same as readinessPath\. Expected two paths\. .*give each its own path\.$/
    })
    t.match(refusal({ readinessPath: '/health/live' }), { code: 'FARGATE_ERR_BAD_SETTING' }, 'also when one is the default')
    t.doesNotThrow(() => resolve({ readinessPath: false, livenessPath: false }))
  })
})

t.test('platform', async (t) => {
  t.test('is told by what ECS sets', async (t) => {
    t.equal(detectPlatform({}), 'elsewhere')
    t.equal(detectPlatform(ECS), 'ecs')
    t.equal(detectPlatform(EC2), 'ecs')
    t.equal(detectPlatform(FARGATE), 'fargate')
    t.equal(detectPlatform({ AWS_EXECUTION_ENV: 'AWS_Lambda_nodejs20.x' }), 'elsewhere')
    t.equal(resolve({}, FARGATE).platform, 'fargate')
  })

  t.test('on Fargate stopTimeout ends at 120 s', async (t) => {
    t.equal(resolve({ stopTimeout: 120 }, FARGATE).stopTimeout, 120)
    t.match(refusal({ stopTimeout: '121' }, FARGATE), {
      code: 'FARGATE_ERR_BAD_SETTING', message: 'stopTimeout (option): 121 is out of range. Expected 2-120 s on Fargate. Set it to the stopTimeout of the container definition.'
    })
    t.match(refusal({}, { ...FARGATE, FARGATE_STOP_TIMEOUT: '30m' }), {
      code: 'FARGATE_ERR_BAD_SETTING', message: 'stopTimeout (environment): 1800 is out of range. Expected 2-120 s on Fargate.'
    })
  })

  t.test('elsewhere a longer one is accepted, with a warning', async (t) => {
    for (const env of [{}, EC2]) {
      t.strictSame(resolve({ stopTimeout: '30m' }, env).warnings, ['stopTimeout 1800 s is legal on EC2 only: Fargate allows 120 s at most.'])
    }
    t.strictSame(resolve({ stopTimeout: 120 }).warnings, [])
  })
})

t.test('warnings', async (t) => {
  const warnings = (options: unknown, env: Environment = {}) => resolve(options, env).warnings

  t.test('a delay over the drain limit: both numbers, and what to do', async (t) => {
    const [first, ...others] = warnings({ deregistrationDelay: 300 })
    t.match(first, 'deregistrationDelay 300 s does not fit: stopTimeout 30 s leaves 20 s for draining')
    t.match(first, 'Raise stopTimeout in the container definition and here, or lower the deregistration delay')
    t.strictSame(others, [])
    t.strictSame(warnings({ deregistrationDelay: 20 }), [], 'at the limit it fits')
  })

  t.test('it is given exactly where the timeline caps the delay', async (t) => {
    const { between } = random(2)
    let capped = 0
    for (let i = 0; i < 5000; i++) {
      const options = { stopTimeout: between(20, 60, 0.1), margin: between(0.1, 2, 0.1), closeReserve: between(1, 15, 0.1), abortGrace: 0.5, deregistrationDelay: between(5, 40, 0.1) }
      const config = resolve(options)
      const isCapped = computeTimeline(config).drainLimit < Math.round(config.deregistrationDelay * 1000)
      if (isCapped) capped++
      if (isCapped !== config.warnings.some((warning) => warning.includes('does not fit'))) {
        t.fail('the warning and the timeline disagree', { options, warnings: config.warnings })
        break
      }
    }
    t.ok(capped > 1000)
  })

  t.test('a delay under 20 s in ECS: the 17 s that were seen', async (t) => {
    for (const env of [ECS, FARGATE]) {
      const [first, ...others] = warnings({ deregistrationDelay: 19.9 }, env)
      t.match(first, 'deregistrationDelay 19.9 s is short: a load balancer was seen to send requests for 17 s')
      t.match(first, 'Use 20 s or more.')
      t.strictSame(others, [])
    }
    t.strictSame(warnings({ deregistrationDelay: 5 }), [], 'not elsewhere')
  })

  t.test('delay + stopTimeout over 120 s on Fargate: both numbers, the sum, and what is missing', async (t) => {
    const [first, ...others] = warnings({ deregistrationDelay: 30, stopTimeout: 100 }, FARGATE)
    t.match(first, 'deregistrationDelay 30 s + stopTimeout 100 s = 130 s')
    t.match(first, 'it may be killed 10 s before its stopTimeout')
    t.match(first, 'Keep the sum at 120 s or less.')
    t.strictSame(others, [])
    t.strictSame(warnings({ deregistrationDelay: 20, stopTimeout: 100 }, FARGATE), [], 'not at 120 s')
    t.strictSame(warnings({ deregistrationDelay: 30, stopTimeout: 100 }, EC2), [], 'not on EC2')
  })

  t.test('where nothing waits for a load balancer its delay is no matter', async (t) => {
    t.strictSame(warnings({ deregistration: 'none', deregistrationDelay: 300, stopTimeout: 100 }, FARGATE), [])
    t.equal(warnings({ deregistration: 'none', deregistrationDelay: 1, stopTimeout: 300 }, EC2).length, 1, 'the stopTimeout is')
  })

  t.test('one does not hide another', async (t) => {
    t.equal(warnings({ deregistrationDelay: 100, stopTimeout: 60 }, FARGATE).length, 2)
  })
})

t.test('deregistration as a function', async (t) => {
  const strategy = async () => 'gone'

  t.test('is taken as it is, from the code', async (t) => {
    const config = resolve({ deregistration: strategy })
    t.equal(config.deregistration, strategy)
    t.equal(config.sources.deregistration, 'option')
  })

  t.test('gives way to the environment', async (t) => {
    const config = resolve({ deregistration: strategy }, { FARGATE_DEREGISTRATION: 'delay' })
    t.equal(config.deregistration, 'delay')
    t.equal(config.sources.deregistration, 'environment')
  })

  t.test('what is neither a function nor a strategy is refused', async (t) => {
    for (const deregistration of [{}, [strategy], 1, null, 'function', 'target-health']) {
      t.match(refusal({ deregistration }), { code: 'FARGATE_ERR_BAD_SETTING', message: `option deregistration: ${show(deregistration)} is no legal value.` })
    }
  })
})

t.test('startup checks', async (t) => {
  const check = () => {}

  t.test('have 5 s for an attempt unless they say otherwise', async (t) => {
    t.strictSame(resolve({ startup: [{ name: 'a', check }, { name: 'b', check, timeout: 0.5 }] }).startup, [
      { name: 'a', check, timeout: 5 }, { name: 'b', check, timeout: 0.5 }
    ])
  })

  t.test('what is no list is refused', async (t) => {
    for (const startup of [check, { name: 'a', check }, 'a', 1, null, true]) {
      t.match(refusal({ startup }), { code: 'FARGATE_ERR_BAD_SETTING', message: `option startup: ${show(startup)} is no array. Expected an array of { name, check, timeout }.` })
    }
  })

  t.test('a check that is none is refused with its place in the list', async (t) => {
    for (const wrong of [undefined, null, check, 'a', {}, { name: 'a' }, { check }, { name: '', check }, { name: 1, check }, { name: 'a', check: 'x' }]) {
      t.match(refusal({ startup: [{ name: 'right', check }, wrong] }), {
        code: 'FARGATE_ERR_BAD_SETTING', message: /^option startup\[1\]: .* is no check\. Expected \{ name: string, check: function, timeout: seconds \}/
      })
    }
  })

  t.test('a time limit outside 0.01-300 s is refused', async (t) => {
    for (const timeout of [0, 0.009, 300.1, -1, NaN, Infinity, '5', null, {}]) {
      t.match(refusal({ startup: [{ name: 'a', check, timeout }] }), {
        code: 'FARGATE_ERR_BAD_SETTING', message: `option startup[0].timeout: ${show(timeout)} is out of range. Expected 0.01-300 s.`
      })
    }
    for (const timeout of [0.01, 300]) t.equal(resolve({ startup: [{ name: 'a', check, timeout }] }).startup[0]?.timeout, timeout)
  })
})

t.test('the readiness check', async (t) => {
  const check = () => true

  t.test('may be the function alone', async (t) => {
    const defaults = { check, timeout: 2, cache: 5, failures: 3, successes: 2 }
    t.strictSame(resolve({ readiness: check }).readiness, defaults)
    t.strictSame(resolve({ readiness: { check } }).readiness, defaults)
  })

  t.test('takes each of its values', async (t) => {
    const given = { check, timeout: 0.01, cache: 300, failures: 1, successes: 100 }
    t.strictSame(resolve({ readiness: given }).readiness, given)
  })

  t.test('what is no check is refused', async (t) => {
    for (const readiness of [null, true, 'x', 1, [], [check], {}, { check: true }]) {
      t.match(refusal({ readiness }), {
        code: 'FARGATE_ERR_BAD_SETTING', message: `option readiness: ${show(readiness)} is no check. Expected a function, or { check, timeout, cache, failures, successes }. Give it a function, or { check, timeout, cache, failures, successes }.`
      })
    }
  })

  for (const name of ['timeout', 'cache']) {
    t.test(`a ${name} outside 0.01-300 s is refused`, async (t) => {
      for (const value of [0, 301, -1, NaN, Infinity, '2', null, false]) {
        t.match(refusal({ readiness: { check, [name]: value } }), {
          code: 'FARGATE_ERR_BAD_SETTING', message: `option readiness.${name}: ${show(value)} is out of range. Expected 0.01-300 s.`
        })
      }
    })
  }

  for (const name of ['failures', 'successes']) {
    t.test(`${name} is a whole number, 1-100`, async (t) => {
      for (const value of [0, 101, -1, 1.5, NaN, Infinity, '3', null]) {
        t.match(refusal({ readiness: { check, [name]: value } }), {
          code: 'FARGATE_ERR_BAD_SETTING', message: `option readiness.${name}: ${show(value)} is out of range. Expected a whole number, 1-100.`
        })
      }
    })
  }

  t.test('a misspelt name in it must not become a silent default', async (t) => {
    t.match(refusal({ readiness: { check, timeot: 1 } }), {
      code: 'FARGATE_ERR_UNKNOWN_SETTING', message: 'option readiness.timeot is not known. Known: check, timeout, cache, failures, successes.'
    })
    t.match(refusal({ startup: [{ name: 'a', check, timeot: 1 }] }), {
      code: 'FARGATE_ERR_UNKNOWN_SETTING', message: 'option startup[0].timeot is not known. Known: name, check, timeout.'
    })
  })
})
