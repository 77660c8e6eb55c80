%% SPDX-License-Identifier: Apache-2.0

%% @private Carries out what is to become of a pool's workers as a whole, which
%% {@link hornbeam_rollout} decides: what is started, in which order, who is told of the outcome.
%%
%% Part of the pool's process. Has no state of its own: each step takes the workers and what is asked
%% of them, and gives both back.
-module(hornbeam_pool_rollout).

-include_lib("kernel/include/logger.hrl").

%% API
-export([advance/1]).
-export([reload_newest/1]).
-export([failed/2]).

-type both() :: {hornbeam_pool_workers:workers(), hornbeam_rollout:rollout()}.

%% @doc After everything that may have been waited for, once the first start is over.
-spec advance(both()) -> both().
advance(Both = {Workers, Rollout0}) ->
    case hornbeam_rollout:step(hornbeam_pool_workers:slots(Workers), Rollout0) of
        {[], Rollout} -> start_due({Workers, Rollout});
        {Actions, Rollout} -> advance(lists:foldl(fun act/2, {Workers, Rollout}, Actions));
        done -> advance(finish(ok, Both));
        idle -> begin_next(Both)
    end.

%% @doc The files have changed. What is under way and would bring an older version begins anew.
-spec reload_newest(both()) -> both().
reload_newest({Workers, Rollout}) ->
    case hornbeam_rollout:ask_for_newest(Rollout) of
        {anew, Asked} -> begin_reload({Workers, Asked});
        {later, Asked} -> {Workers, Asked}
    end.

%% @doc A process could not be started, or has ended before it was ready.
-spec failed(hornbeam_pool_workers:failure(), both()) -> both().
failed({WorkerId, Generation, Reason}, Both = {_, Rollout}) ->
    case hornbeam_rollout:concerns(WorkerId, Generation, Rollout) of
        true -> finish({error, hornbeam_worker_exit:start_reason(Reason, WorkerId)}, Both);
        false -> Both
    end.

%%% Beginnings

begin_next(Both = {Workers, Rollout0}) ->
    case hornbeam_rollout:next(Rollout0) of
        {reload, Rollout} -> advance(begin_reload({Workers, Rollout}));
        {{scale, Count}, Rollout} -> advance(begin_scale(Count, {Workers, Rollout}));
        none -> start_due(Both)
    end.

begin_reload({Workers0, Rollout}) ->
    Workers = hornbeam_pool_workers:begin_generation(Workers0),
    Ids = hornbeam_slots:ids(hornbeam_pool_workers:slots(Workers)),
    Generation = hornbeam_pool_workers:generation(Workers),
    {Workers, hornbeam_rollout:begin_reload(Generation, Ids, Rollout)}.

begin_scale(Count, {Workers, Rollout}) ->
    Ids = hornbeam_slots:ids(hornbeam_pool_workers:slots(Workers)),
    Added = lists:seq(1, Count) -- Ids,
    ?LOG_NOTICE(#{what => scaling, from => length(Ids), to => Count}),
    Begun = hornbeam_rollout:begin_scale(length(Ids), Added, Rollout),
    lists:foldl(fun add_awaited/2, {keep_workers(Count, Workers), Begun}, Added).

%% Once one has failed, there is no point in the others.
add_awaited(WorkerId, Both = {Workers, Rollout}) ->
    Generation = hornbeam_pool_workers:generation(Workers),
    case hornbeam_rollout:concerns(WorkerId, Generation, Rollout) of
        true -> follow(hornbeam_pool_workers:add(WorkerId, Workers), Both);
        false -> Both
    end.

%% The highest ids leave first.
keep_workers(Count, Workers) ->
    Ids = hornbeam_slots:ids(hornbeam_pool_workers:slots(Workers)),
    Fewer = hornbeam_pool_workers:set_count(Count, Workers),
    hornbeam_pool_workers:retire([Id || Id <- Ids, Id > Count], Fewer).

%%% Steps

%% Of those that somebody wants replaced, whatever else goes on.
start_due(Both = {Workers, _}) ->
    Slots = hornbeam_pool_workers:slots(Workers),
    Limit = max(1, hornbeam_slots:count(Slots) div 4),
    lists:foldl(fun start_successor/2, Both, hornbeam_slots:due(Limit, Slots)).

start_successor({WorkerId, Why}, Both = {Workers, _}) ->
    follow(hornbeam_pool_workers:start_successor(WorkerId, Why, Workers), Both).

%% What was started before the reload may have read older files.
act({_, Id} = Action, Both = {Workers, Rollout}) ->
    Wanted = hornbeam_pool_workers:generation(Workers),
    case {Action, hornbeam_slots:state(Id, hornbeam_pool_workers:slots(Workers))} of
        {_, {backoff, _, _}} -> follow(hornbeam_pool_workers:start(Id, Workers), Both);
        {{succeed, _}, {_, _, none}} -> start_successor({Id, reload}, Both);
        {{succeed, _}, {_, _, Wanted}} -> Both;
        {{start, _}, {starting, Wanted, _}} -> Both;
        {_, _} -> act(Action, {hornbeam_pool_workers:discard_starting(Id, Workers), Rollout})
    end.

follow({ok, Workers}, {_, Rollout}) -> {Workers, Rollout};
follow({failed, Failure, Workers}, {_, Rollout}) -> failed(Failure, {Workers, Rollout}).

%%% Ends

finish(Answer, {Workers, Rollout0}) ->
    {What, Waiters, Rollout} = hornbeam_rollout:finish(Rollout0),
    log(What, Answer),
    Undone = undo(What, Answer, Workers),
    lists:foreach(fun(From) -> gen_server:reply(From, Answer) end, Waiters),
    {Undone, Rollout}.

%% Workers that were replaced stay; of those that were added none does.
undo({scale, Before}, {error, _}, Workers) -> keep_workers(Before, Workers);
undo(_, _, Workers) -> Workers.

log(reload, ok) ->
    ?LOG_NOTICE(#{what => reloaded});
log({scale, _}, ok) ->
    ok;
log(reload, {error, Reason}) ->
    ?LOG_ERROR(#{what => reload_failed, reason => hornbeam_worker_exit:error_text(Reason)},
               #{report_cb => fun hornbeam_worker_exit:readable/1});
log({scale, _}, {error, Reason}) ->
    ?LOG_ERROR(#{what => scale_failed, reason => hornbeam_worker_exit:error_text(Reason)}).
