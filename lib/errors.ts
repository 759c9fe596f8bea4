import createError from '@fastify/error'

/**
 * Every error this plugin can raise. The text says what was expected, what it got, and what to change.
 * The README lists the same codes.
 */

export const FARGATE_ERR_BAD_SETTING = createError<[where: string, value: string | number, is: string, expected: string, fix: string]>(
  'FARGATE_ERR_BAD_SETTING', '%s: %s is %s. Expected %s. %s')

export const FARGATE_ERR_UNKNOWN_SETTING = createError('FARGATE_ERR_UNKNOWN_SETTING', '%s is not known. %s')

export const FARGATE_ERR_NO_TIME_TO_CLOSE = createError(
  'FARGATE_ERR_NO_TIME_TO_CLOSE', 'The timeline does not fit: %s. %s')

export const FARGATE_ERR_PATH_TAKEN = createError(
  'FARGATE_ERR_PATH_TAKEN', '%s: the application already has a route GET %s. Remove that route, or set %s to another path, or to false.')

export const FARGATE_ERR_PROBE_INTERCEPTED = createError(
  'FARGATE_ERR_PROBE_INTERCEPTED',
  'A hook of the application gets at GET %s: it should answer %s, but answered %s. Behind a load balancer this task would never get a request. Register fastify-fargate before the plugins and hooks of the application, or make the hook leave this path alone.')

export const FARGATE_ERR_ALREADY_REGISTERED = createError(
  'FARGATE_ERR_ALREADY_REGISTERED', 'fastify-fargate is registered on this instance already. Register it once, on the root instance.')

export const FARGATE_ERR_STOPPED_DURING_BOOT = createError(
  'FARGATE_ERR_STOPPED_DURING_BOOT', 'The service was told to stop (%s) while it was starting, so it does not listen.')

export const FARGATE_ERR_ILLEGAL_MOVE = createError(
  'FARGATE_ERR_ILLEGAL_MOVE', 'The state cannot move from %s to %s.')

export const FARGATE_ERR_TIME_LIMIT = createError('FARGATE_ERR_TIME_LIMIT', '%s took longer than %s s.')

export const FARGATE_ERR_BAD_ARGUMENT = createError(
  'FARGATE_ERR_BAD_ARGUMENT', '%s() expects %s, got %s.')

export const FARGATE_ERR_DRAINING = createError(
  'FARGATE_ERR_DRAINING', 'The job %s was not begun, as the service is stopping. Leave it to another task: put the message back, or do not take it in.')
