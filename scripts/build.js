// Builds dist/esm and dist/commonjs from the same sources.
//
// `require()` must give the plugin itself, as everywhere among Fastify's plugins, and TypeScript has no word for that
// next to `export default`. So CommonJS gets one more file, require.js, and types that say the same: `export =` a
// function that carries every other export. That is the shape for which attw and publint have no complaint.

import { execFileSync } from 'node:child_process'
import { rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import ts from 'typescript'

process.chdir(new URL('..', import.meta.url).pathname)
const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc')

function compile (format, ...options) {
  execFileSync(process.execPath, [tsc, '-p', 'tsconfig.build.json', '--outDir', `dist/${format}`, ...options], { stdio: 'inherit' })
  writeFileSync(`dist/${format}/package.json`, `{ "type": "${format === 'esm' ? 'module' : 'commonjs'}" }\n`)
}

function namesExportedBy (file) {
  const program = ts.createProgram([file], { module: ts.ModuleKind.NodeNext })
  const checker = program.getTypeChecker()
  const symbol = checker.getSymbolAtLocation(program.getSourceFile(file))
  return checker.getExportsOfModule(symbol).map(({ name }) => name).filter(name => name !== 'default')
}

rmSync('dist', { recursive: true, force: true })
try {
  compile('esm')
  compile('commonjs', '--module', 'commonjs', '--moduleResolution', 'node10', '--esModuleInterop', '--verbatimModuleSyntax', 'false')
} catch (error) {
  process.exit(error.status || 1) // tsc has said why
}

writeFileSync('dist/commonjs/require.js', `'use strict'

const exported = require('./lib/index.js')

module.exports = Object.assign(exported.default, exported)
`)
writeFileSync('dist/commonjs/require.d.ts', `import exported = require('./lib/index.js')

type Plugin = typeof exported.default

declare function fastifyFargate (...args: Parameters<Plugin>): ReturnType<Plugin>

declare namespace fastifyFargate {
${namesExportedBy('dist/commonjs/lib/index.d.ts').map(name => `  export import ${name} = exported.${name}\n`).join('')}\
  export { fastifyFargate as default }
}

export = fastifyFargate
`)
