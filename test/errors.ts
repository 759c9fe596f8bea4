import t from 'tap'
import * as errors from '../lib/errors.js'

const all = Object.entries(errors)

t.test('there are errors', async (t) => {
  t.ok(all.length >= 10)
})

for (const [name, CodedError] of all) {
  t.test(`${name} carries its own name as its code`, async (t) => {
    const Any = CodedError as unknown as new (...args: string[]) => Error & { code: string }
    const error = new Any('a', 'b', 'c', 'd', 'e')
    t.equal(error.code, name)
    t.ok(error instanceof Error)
    t.ok(error instanceof Any)
  })

  t.test(`${name} says something with all that it is given`, async (t) => {
    const Any = CodedError as unknown as new (...args: string[]) => Error
    const message = new Any('{1}', '{2}', '{3}', '{4}', '{5}').message
    t.notMatch(message, /%s/, 'nothing is left open')
    t.match(message, /\.$|\{\d\}$/, 'it is a sentence')
  })
}

t.test('a bad setting says where, what it is, what is wrong, what was expected and what to do', async (t) => {
  const { message } = new errors.FARGATE_ERR_BAD_SETTING('option stopTimeout', '"x"', 'no duration', '2-3600 s', 'Write seconds.')
  t.equal(message, 'option stopTimeout: "x" is no duration. Expected 2-3600 s. Write seconds.')
})
