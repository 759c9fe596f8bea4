// The house style is neostandard. What follows holds the architecture: who may know the time, who may touch the
// process, which files are pure, and that an adapter does not load the library it adapts.

import neostandard, { plugins } from 'neostandard'

const time = {
  globals: ['performance', 'setTimeout', 'setInterval', 'setImmediate'],
  properties: [['Date', 'now'], ['AbortSignal', 'timeout']],
  syntax: ['NewExpression[callee.name="Date"][arguments.length=0]', 'CallExpression[callee.name="Date"]'],
  imports: ['^(node:)?(timers|perf_hooks)(/|$)'],
  message: 'Only lib/clock.ts knows the time: take a Clock as a parameter.'
}

const host = {
  globals: ['process'],
  imports: ['^(node:)?process$'],
  message: 'Only lib/coordinator.ts and lib/host.ts touch the process: take what you need as a parameter.'
}

const pure = {
  syntax: ['ImportExpression'],
  imports: ['^(?!\\.{1,2}/)', '/(clock|coordinator|host)\\.js$'],
  message: 'This file is pure: it imports types, and values from other pure files.'
}

const adapter = {
  syntax: ['ImportExpression'],
  imports: ['^(?!\\.{1,2}/|node:)'],
  message: 'An adapter is handed its library by the user: import its types only.'
}

// Flat configs replace a rule's options and do not merge them, so each group of files gets its whole list. With no
// options at all the earlier ones would stay: hence 'off'.
const rule = (options) => options.length > 0 ? ['error', ...options] : 'off'

function forbid (...bans) {
  const each = (key, make) => bans.flatMap(ban => (ban[key] ?? []).map(entry => make(entry, ban.message)))
  const globals = each('globals', (name, message) => ({ name, message }))
  return {
    'no-restricted-globals': rule(globals),
    'no-restricted-properties': rule([
      ...globals.map(({ name, message }) => ({ object: 'globalThis', property: name, message })),
      ...each('properties', ([object, property], message) => ({ object, property, message }))
    ]),
    'no-restricted-syntax': rule(each('syntax', (selector, message) => ({ selector, message }))),
    '@typescript-eslint/no-restricted-imports': ['error', {
      patterns: each('imports', (regex, message) => ({ regex, message, allowTypeImports: true }))
    }]
  }
}

export default [
  { ignores: ['**/dist', '.tap', '.matrix', '.stryker', 'coverage'] },
  ...neostandard({ ts: true }),
  {
    files: ['lib/**/*.ts', 'types/**/*.ts', 'test/**/*.ts'],
    plugins: { '@typescript-eslint': plugins['typescript-eslint'].plugin },
    languageOptions: {
      parserOptions: { project: './tsconfig.eslint.json', tsconfigRootDir: import.meta.dirname }
    },
    rules: {
      // A lost await is a lost drain. tap itself waits for its subtests.
      '@typescript-eslint/no-floating-promises': ['error', {
        allowForKnownSafePromises: [{ from: 'package', name: 'PromiseWithSubtest', package: '@tapjs/core' }]
      }],
      'no-void': ['error', { allowAsStatement: true }],
      '@typescript-eslint/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }],
      '@typescript-eslint/consistent-type-imports': ['error', {
        fixStyle: 'inline-type-imports',
        disallowTypeAnnotations: false // fixtures: `await import(...) as typeof import('fastify')`
      }]
    }
  },
  { files: ['lib/**/*.ts'], rules: forbid(time, host) },
  { files: ['lib/clock.ts'], rules: forbid(host) },
  { files: ['lib/coordinator.ts', 'lib/host.ts'], rules: forbid(time) },
  { files: ['lib/adapters/*.ts'], rules: forbid(time, host, adapter) },
  {
    files: ['lib/{timeline,lifecycle,config,settings}.ts', 'lib/deregistration/silence.ts'],
    rules: forbid(time, host, pure)
  }
]
