// npm run bench: what the plugin costs while serving, and how long a stop takes. Ratios and times of one run on one
// machine; the comparison, not the number, is what counts. An argument runs one part: serving, connections, stopping.
import { spawnSync } from 'node:child_process'

const parts = {
  serving: ['serving.js'],
  connections: ['connections.js'],
  // Needs HAProxy.
  stopping: ['--import', new URL('../test/support/typescript.js', import.meta.url).href, 'stopping.ts']
}

const wanted = process.argv.slice(2)
for (const [name, args] of Object.entries(parts)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue
  console.log(`\n== ${name}`)
  const file = new URL(args.at(-1), import.meta.url).pathname
  const { status } = spawnSync(process.execPath, [...args.slice(0, -1), file], { stdio: 'inherit' })
  if (status !== 0) process.exitCode = 1
}
