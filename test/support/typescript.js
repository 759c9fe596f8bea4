// Runs TypeScript without a build, in the tests and in the processes they start. Types are blanked out and nothing
// moves, so lines, columns and coverage are the source's own. Half the start time of ts-node, which tap brings.

import { existsSync, readFileSync } from 'node:fs'
import module from 'node:module'
import { isMainThread } from 'node:worker_threads'
import { transformSync } from 'amaro'

export function resolve (specifier, context, next) {
  if (/^\.{1,2}\/.*\.js$/.test(specifier) && /\.ts(\?|$)/.test(context.parentURL)) {
    const source = new URL(specifier.slice(0, -2) + 'ts', context.parentURL)
    if (existsSync(source)) return next(source.href, context)
  }
  return next(specifier, context)
}

export function load (url, context, next) {
  if (!/^file:.*\.ts(\?|$)/.test(url)) return next(url, context)
  const { code } = transformSync(readFileSync(new URL(url), 'utf8'), { mode: 'strip-only' })
  return { format: 'module', source: code, shortCircuit: true }
}

// Node 20 has no synchronous hooks: there this file is loaded once more, in the hooks' own thread.
if (module.registerHooks) module.registerHooks({ resolve, load })
else if (isMainThread) module.register(import.meta.url)
