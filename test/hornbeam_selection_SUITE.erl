%% SPDX-License-Identifier: Apache-2.0
%% Which worker a request goes to, in the moment in which workers are replaced.
-module(hornbeam_selection_SUITE).

-include_lib("stdlib/include/assert.hrl").

-import(hornbeam_test_parallel, [in_parallel/2]).

-export([all/0]).
-export([suite/0]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([successors_are_found/1]).
-export([none_is_open/1]).
-export([an_only_worker_has_its_limit/1]).
-export([at_the_same_moment/1]).
-export([who_has_met_a_death_gets_one_that_lives/1]).
-export([a_successor_keeps_its_row/1]).
-export([the_last_row_is_read/1]).
-export([nobody_gets_a_worker_that_was_told_to_end/1]).

-define(NAME, selection_suite).
-define(MANY, 1000).
-define(CLIENTS, 8).
-define(REPLACEMENTS, 300).

suite() ->
    [{timetrap, {seconds, 30}}].

all() ->
    [successors_are_found, none_is_open, an_only_worker_has_its_limit, at_the_same_moment,
     who_has_met_a_death_gets_one_that_lives, a_successor_keeps_its_row,
     the_last_row_is_read, nobody_gets_a_worker_that_was_told_to_end].

init_per_testcase(_, Config) ->
    {ok, _} = application:ensure_all_started(hornbeam),
    %% Nobody may wait: a request that finds no worker has failed.
    [{waiting, hornbeam_selection:new_waiting(0)} | Config].

end_per_testcase(_, _) ->
    hornbeam_selection:withdraw(?NAME).

%% A worker that is to leave is not taken, whatever it answers, its successor is.
successors_are_found(Config) ->
    Former = new_worker(),
    publish([Former], Config),
    ?assertMatch({ok, {_, _, _, _}}, hornbeam_selection:checkout(?NAME, new, any)),
    hornbeam_load:release(load(Former)),
    retire(Former),
    %% It is the better choice by its load.
    Next = new_worker(),
    _ = hornbeam_load:next_request_id(load(Next)),
    publish([Former, Next], Config),
    [beat(Each) || Each <- [Former, Next]],
    {ok, {_, _, _, Load}} = hornbeam_selection:checkout(?NAME, new, any),
    ?assertEqual(load(Next), Load).

%% Where all are closed there is no place, and nobody searches for ever.
none_is_open(Config) ->
    Former = new_worker(),
    publish([Former], Config),
    retire(Former),
    ?assertEqual(full, hornbeam_selection:checkout(?NAME, new, any)),
    hornbeam_selection:withdraw(?NAME),
    ?assertEqual(down, hornbeam_selection:checkout(?NAME, new, any)).

%% Without others to compare it to, it takes no more than it may.
an_only_worker_has_its_limit(Config) ->
    Only = new_worker(),
    Waiting = proplists:get_value(waiting, Config),
    ok = hornbeam_selection:publish(?NAME, [Only], 2, Waiting, asgi),
    ?assertMatch([{ok, _}, {ok, _}, full],
                 [hornbeam_selection:checkout(?NAME, new, any) || _ <- lists:seq(1, 3)]),
    ?assertEqual(2, hornbeam_load:in_flight(load(Only))),
    ok = hornbeam_load:release(load(Only)),
    ?assertMatch({ok, _}, hornbeam_selection:checkout(?NAME, new, any)).

%% As many as there are workers: each gets one of its own, also where all have looked before the first
%% one had its place; and where a worker takes no more than one, nobody finds them full.
at_the_same_moment(Config) ->
    lists:foreach(fun(Max) ->
        Workers = [new_worker() || _ <- lists:seq(1, 4)],
        Waiting = proplists:get_value(waiting, Config),
        ok = hornbeam_selection:publish(?NAME, Workers, Max, Waiting, asgi),
        Taken = in_parallel(4, fun(_) -> hornbeam_selection:checkout(?NAME, new, any) end),
        ?assertMatch([{ok, _}, {ok, _}, {ok, _}, {ok, _}], Taken),
        ?assertEqual([1, 1, 1, 1], [hornbeam_load:in_flight(load(Each)) || Each <- Workers])
    end, lists:append(lists:duplicate(?REPLACEMENTS, [1, ?MANY]))).

%% Others go to a worker that has not answered since, too: they may be lost once.
who_has_met_a_death_gets_one_that_lives(Config) ->
    [Busy, Silent] = Workers = [new_worker(), new_worker()],
    publish(Workers, Config),
    ?assertNot(hornbeam_selection:has_doubtful(?NAME)),
    true = hornbeam_load:reserve(load(Busy), 100),
    Doubt = hornbeam_load:doubt(load(Silent)),
    ?assert(hornbeam_selection:has_doubtful(?NAME)),
    {ok, {_, _, _, Lives}} = hornbeam_selection:checkout(?NAME, new, proven),
    ?assertEqual(load(Busy), Lives),
    {ok, {_, _, _, LeastLoaded}} = hornbeam_selection:checkout(?NAME, new, any),
    ?assertEqual(load(Silent), LeastLoaded),
    ok = hornbeam_load:release(LeastLoaded),
    _ = hornbeam_load:doubt(load(Busy)),
    ?assertEqual(full, hornbeam_selection:checkout(?NAME, new, proven)),
    true = hornbeam_load:proven(load(Silent), Doubt),
    {ok, {_, _, _, Answered}} = hornbeam_selection:checkout(?NAME, new, proven),
    ?assertEqual(load(Silent), Answered),
    %% One that is to leave is not waited for.
    hornbeam_load:close(load(Busy)),
    ?assertNot(hornbeam_selection:has_doubtful(?NAME)).

%% A pool that ends late takes only its own row.
a_successor_keeps_its_row(Config) ->
    publish([new_worker()], Config),
    Pool = spawn_pool(fun() -> publish([], Config) end),
    ?assertEqual(Pool, hornbeam_selection:pool_pid(?NAME)),
    ok = hornbeam_selection:withdraw(?NAME),
    ?assertEqual(Pool, hornbeam_selection:pool_pid(?NAME)),
    ok = hornbeam_selection:forget(?NAME),
    ?assertEqual(undefined, hornbeam_selection:pool_pid(?NAME)).

%% A pool and its successor write at the same time, in whatever order: what is read in the end is what
%% the successor wrote last.
the_last_row_is_read(Config) ->
    Last = {_, _, _, Load} = new_worker(),
    lists:foreach(fun(_) ->
        publish([new_worker()], Config),
        Pool = self(),
        Successor = spawn(fun() ->
            publish([new_worker()], Config),
            publish([Last], Config),
            Pool ! {self(), published}
        end),
        ok = hornbeam_selection:withdraw(?NAME),
        receive {Successor, published} -> ok end,
        ?assertEqual(Successor, hornbeam_selection:pool_pid(?NAME)),
        ?assertMatch({ok, {_, _, _, Load}}, hornbeam_selection:checkout(?NAME, new, any))
    end, lists:seq(1, ?REPLACEMENTS)),
    ok = hornbeam_selection:forget(?NAME).

%% One worker after the other is replaced as the pool does it, while clients take places and heartbeats
%% are answered. A worker is told to end when all that have a place have sent their request: from then
%% on nobody may have it. And there always is one, without a queue.
nobody_gets_a_worker_that_was_told_to_end(Config) ->
    First = new_worker(),
    publish([First], Config),
    Stop = atomics:new(1, []),
    Clients = [spawn_monitor(fun() -> take_places(Stop, 0) end) || _ <- lists:seq(1, ?CLIENTS)],
    Last = lists:foldl(fun(_, Former) ->
        %% Whatever the scheduler does: the one that is replaced has had requests.
        await_use(Former),
        replace(Former, Config)
    end, First, lists:seq(1, ?REPLACEMENTS)),
    await_use(Last),
    ok = atomics:put(Stop, 1, 1),
    Counts = [receive {'DOWN', Monitor, process, Pid, Reason} -> taken(Reason) end
              || {Pid, Monitor} <- Clients],
    ?assert(lists:sum(Counts) > ?REPLACEMENTS),
    ?assertEqual(0, hornbeam_load:in_flight(load(Last))).

%% Internal.

%% `ended' is 1 once it was told to end; a test's own, which travels as the worker's writer.
new_worker() ->
    Load = hornbeam_load:new(),
    ok = hornbeam_load:open(Load),
    {self(), atomics:new(1, []), hornbeam_routes:new(), Load}.

load({_, _, _, Load}) -> Load.

publish(Workers, Config) ->
    Waiting = proplists:get_value(waiting, Config),
    hornbeam_selection:publish(?NAME, Workers, ?MANY, Waiting, asgi).

%% A pool that has gone, and could not withdraw.
spawn_pool(Publish) ->
    {Pool, Monitor} = spawn_monitor(fun() -> Publish() end),
    receive {'DOWN', Monitor, process, Pool, Reason} -> ?assertEqual(normal, Reason) end,
    Pool.

retire({_, _, _, Load}) -> hornbeam_load:close(Load).

beat({_, _, _, Load}) -> hornbeam_load:recover(Load).

taken({taken, Count}) -> Count.

replace(Former, Config) ->
    Next = new_worker(),
    publish([Next], Config),
    retire(Former),
    {_, Ended, Routes, _} = Former,
    await_sent(Former),
    ok = atomics:put(Ended, 1, 1),
    beat(Former),
    erlang:yield(),
    hornbeam_routes:delete(Routes),
    Next.

await_use(Worker = {_, _, _, Load}) ->
    {_, _, LastId} = hornbeam_load:rank(Load, ?MANY),
    LastId > 0 orelse begin erlang:yield(), await_use(Worker) end.

%% See hornbeam_worker_life:stop_drained/2. The worker answers its heartbeats meanwhile.
await_sent(Worker = {_, _, Routes, Load}) ->
    beat(Worker),
    case hornbeam_load:in_flight(Load) =:= hornbeam_routes:count(Routes) of
        true -> ok;
        false -> await_sent(Worker)
    end.

take_places(Stop, Count) ->
    case atomics:get(Stop, 1) of
        1 -> exit({taken, Count});
        0 -> ok
    end,
    {ok, {_, Ended, Routes, Load}} = hornbeam_selection:checkout(?NAME, new, any),
    erlang:yield(),
    0 = atomics:get(Ended, 1),
    Id = hornbeam_load:next_request_id(Load),
    true = hornbeam_routes:insert(Routes, Id, {self(), 1}, 0),
    erlang:yield(),
    %% As the worker does it when the application has returned.
    _ = hornbeam_routes:done(Routes, Id),
    ok = hornbeam_load:release(Load),
    take_places(Stop, Count + 1).
