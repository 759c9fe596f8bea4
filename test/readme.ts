import { readFileSync } from 'node:fs'
import t from 'tap'
import * as errors from '../lib/errors.js'
import { settings } from '../lib/settings.js'

const read = (path: string) => readFileSync(new URL(`../${path}`, import.meta.url), 'utf8')

/** The cells of the rows that begin like this. */
const rows = (text: string, begin: RegExp) => text.split('\n').filter((line) => begin.test(line))
  .map((line) => line.split('|').slice(1, -1).map((cell) => cell.trim()))

t.test('README.md', async (t) => {
  const readme = read('README.md')

  t.test('lists every setting with its variable, default and legal values, as the code has them', async (t) => {
    const listed = rows(readme, /^\| `[a-zA-Z]+` \| `FARGATE_/).map((cells) => cells.slice(0, 4))
    t.strictSame(listed, Object.entries(settings).map(([key, setting]) => [`\`${key}\``, `\`${setting.env}\``, setting.default, setting.legal]))
  })

  t.test('says of each what it means', async (t) => {
    for (const [key, , , , meaning] of rows(readme, /^\| `[a-zA-Z]+` \| `FARGATE_/)) t.ok(meaning !== undefined && meaning.length > 10, String(key))
  })

  t.test('lists every error code, each once, with a word about it', async (t) => {
    const listed = rows(readme, /^\| `FARGATE_ERR_/)
    t.strictSame(listed.map(([code]) => code!.replaceAll('`', '')).sort(), Object.keys(errors).sort())
    for (const [code, ...rest] of listed) t.ok(rest.join('').length > 10, String(code))
  })
})

t.test('types/index.ts', async (t) => {
  const types = read('types/index.ts')
  const body = /export interface FargateOptions \{([^]*?)\n\}/.exec(types)![1]!
  /** The doc comment of each option. */
  const docs = Object.fromEntries([...body.matchAll(/\/\*\*([^]*?)\*\/\s+(\w+)\?:/g)].map(([, doc, name]) => [name!, doc!.replace(/\s*\n\s*\* ?/g, '\n')]))

  t.test('has every setting, and what there is only in code', async (t) => {
    t.strictSame(Object.keys(docs).sort(), [...Object.keys(settings), 'startup', 'readiness'].sort())
  })

  for (const [key, setting] of Object.entries(settings)) {
    t.test(`${key}: the default and the variable are those of the code`, async (t) => {
      const doc = docs[key]!
      t.equal(/@default (.*)/.exec(doc)?.[1], setting.default.replaceAll('`', "'"))
      t.match(doc, `\`${setting.env}\``)
    })
  }

  t.test('the bounds of durations are those of the code, where they are named', async (t) => {
    for (const key of ['deregistrationDelay', 'quiet', 'margin', 'closeReserve', 'abortGrace'] as const) {
      t.ok(docs[key]!.replace(/\s+/g, ' ').includes(settings[key].legal), `${key}: ${settings[key].legal}`)
    }
  })
})
