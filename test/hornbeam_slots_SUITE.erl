%% SPDX-License-Identifier: Apache-2.0
%% The slots of a pool and what becomes of all of them, as values: each transition by itself.
-module(hornbeam_slots_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([start_and_end/1]).
-export([stable_workers_have_not_failed/1]).
-export([succession/1]).
-export([successor_that_fails/1]).
-export([worker_that_ends_before_its_successor/1]).
-export([late_words_of_others/1]).
-export([recycling_takes_turns/1]).
-export([urgent_ones_do_not_wait/1]).
-export([too_large_too_soon/1]).
-export([timers_of_former_times/1]).
-export([retire_in_each_phase/1]).
-export([discard_what_starts/1]).
-export([reload_in_steps/1]).
-export([reload_of_what_is_new_already/1]).
-export([reloads_are_shared/1]).
-export([what_a_failure_concerns/1]).

-define(S, hornbeam_slots).
-define(R, hornbeam_rollout).

all() ->
    [
        start_and_end, stable_workers_have_not_failed, succession, successor_that_fails,
        worker_that_ends_before_its_successor, late_words_of_others, recycling_takes_turns,
        urgent_ones_do_not_wait, too_large_too_soon, timers_of_former_times,
        retire_in_each_phase, discard_what_starts, reload_in_steps,
        reload_of_what_is_new_already, reloads_are_shared, what_a_failure_concerns
    ].

%% backoff, starting, ready, backoff; failures in a row are counted.
start_and_end(_) ->
    Process = process(0),
    Empty = ?S:add(1, ?S:new()),
    ?assertEqual({backoff, none, none}, ?S:state(1, Empty)),
    Starting = ?S:put_worker(1, Process, Empty),
    ?assertEqual({starting, 0, none}, ?S:state(1, Starting)),
    ?assertEqual([], ?S:ready_processes(Starting)),
    {started, Ready} = ?S:ready(1, pid(Process), self(), 0, Starting),
    ?assertMatch([#{writer := _}], ?S:ready_processes(Ready)),
    ?assert(?S:are_all_ready(Ready)),
    {worker, _, Down} = ?S:down(1, monitor(Process), gone, 10, Ready),
    ?assertEqual({1, 0}, ?S:failures(1, Down)),
    ?assertEqual({backoff, none, none}, ?S:state(1, Down)),
    {worker, _, Again} = ?S:down(1, monitor(Process), gone, 20, ?S:put_worker(1, Process, Down)),
    ?assertEqual({2, 0}, ?S:failures(1, Again)),
    ?assertMatch([{#{restarts := 2, last_exit := <<"gone">>, state := backoff}, undefined}],
                 ?S:shown(Again)).

%% One second is enough, one millisecond less is not.
stable_workers_have_not_failed(_) ->
    {Process, Ready} = ready(0),
    {worker, _, Soon} = ?S:down(1, monitor(Process), gone, 999, Ready),
    ?assertEqual({1, 0}, ?S:failures(1, Soon)),
    {worker, _, Late} = ?S:down(1, monitor(Process), gone, 1000, Ready),
    ?assertEqual({0, 0}, ?S:failures(1, Late)).

%% The successor takes over, the former leaves.
succession(_) ->
    {Former, Ready} = ready(0),
    Next = process(1),
    Both = ?S:put_successor(1, Next, reload, Ready),
    ?assertEqual({ready, 0, 1}, ?S:state(1, Both)),
    {replaced, Left, Over} = ?S:ready(1, pid(Next), self(), 50, Both),
    ?assertEqual(pid(Former), pid(Left)),
    ?assertEqual({ready, 1, none}, ?S:state(1, Over)),
    ?assertMatch({ok, _}, ?S:leaving(monitor(Former), Over)),
    ?assertEqual(2, length(?S:processes(Over))),
    ?assertEqual([draining, ready], lists:sort([S || {#{state := S}, _} <- ?S:shown(Over)])),
    {left, _, Alone} = ?S:down(1, monitor(Former), {shutdown, stopped}, 60, Over),
    ?assertEqual(gone, ?S:leaving(monitor(Former), Alone)),
    ?assertEqual(1, length(?S:processes(Alone))).

%% The worker itself is as it was.
successor_that_fails(_) ->
    {_, Ready} = ready(0),
    Next = process(1),
    {successor, _, Back} =
        ?S:down(1, monitor(Next), gone, 9, ?S:put_successor(1, Next, reload, Ready)),
    ?assertEqual({ready, 0, none}, ?S:state(1, Back)),
    ?assertEqual({0, 1}, ?S:failures(1, Back)),
    ?assertNot(?S:is_wanted(1, Back)).

%% The successor comes into the place before it is ready.
worker_that_ends_before_its_successor(_) ->
    {Former, Ready} = ready(0),
    Next = process(1),
    {succeeded, _, Moved} =
        ?S:down(1, monitor(Former), gone, 9, ?S:put_successor(1, Next, reload, Ready)),
    ?assertEqual({starting, 1, none}, ?S:state(1, Moved)),
    ?assertMatch({started, _}, ?S:ready(1, pid(Next), self(), 10, Moved)).

%% What is said of a process that is no longer there, or of a slot, changes nothing.
late_words_of_others(_) ->
    {Process, Ready} = ready(0),
    ?assertEqual(unknown, ?S:ready(1, self(), self(), 0, Ready)),
    ?assertEqual(unknown, ?S:ready(1, pid(Process), self(), 0, Ready)),
    ?assertEqual(unknown, ?S:ready(7, pid(Process), self(), 0, Ready)),
    ?assertEqual(unknown, ?S:down(1, make_ref(), gone, 0, Ready)),
    ?assertEqual(Ready, ?S:set_os_pid(1, self(), 5, Ready)),
    ?assertEqual(ignored, ?S:want(1, self(), now, {timeout, 0}, Ready)),
    ?assertEqual(stale, ?S:timer_due(7, make_ref(), Ready)).

%% As many as there may be at a time, those with the lowest numbers first.
recycling_takes_turns(_) ->
    {Processes, Ready} = all_ready(8),
    Want = fun({Id, Process}, Slots) ->
        {ok, 0, Wanting} = ?S:want(Id, pid(Process), in_turn, {{max_requests, 5}, 0}, Slots),
        Wanting
    end,
    Wanting = lists:foldl(Want, Ready, Processes),
    ?assertEqual([{1, {max_requests, 5}}, {2, {max_requests, 5}}], ?S:due(2, Wanting)),
    One = ?S:put_successor(1, process(0), {max_requests, 5}, Wanting),
    ?assertEqual([{2, {max_requests, 5}}], ?S:due(2, One)),
    Two = ?S:put_successor(2, process(0), {max_requests, 5}, One),
    ?assertEqual([], ?S:due(2, Two)),
    ?assertEqual(ignored, ?S:want(3, pid(proplists:get_value(3, Processes)), in_turn,
                                  {{max_requests, 5}, 0}, Two)).

%% A worker whose threads are stuck is replaced whatever else is going on.
urgent_ones_do_not_wait(_) ->
    {Processes, Ready} = all_ready(4),
    Busy = ?S:put_successor(1, process(0), reload, Ready),
    Pid = pid(proplists:get_value(3, Processes)),
    {ok, 0, Turn} = ?S:want(3, Pid, in_turn, {{max_requests, 5}, 0}, Busy),
    ?assertEqual([], ?S:due(1, Turn)),
    {ok, 0, Now} = ?S:want(3, Pid, now, {timeout, 0}, Turn),
    ?assertEqual([{3, timeout}], ?S:due(1, Now)).

%% It counts as a successor of no use, until one is up for long enough.
too_large_too_soon(_) ->
    {First, Ready} = ready(0),
    Why = {max_memory, 1000},
    {ok, 1, Wanting} = ?S:want(1, pid(First), in_turn, {Why, 1000}, Ready),
    Next = process(0),
    {replaced, _, Over} =
        ?S:ready(1, pid(Next), self(), 2000, ?S:put_successor(1, Next, Why, Wanting)),
    ?assertMatch({ok, 2, _}, ?S:want(1, pid(Next), in_turn, {Why, 3000}, Over)),
    ?assertMatch({ok, 0, _}, ?S:want(1, pid(Next), in_turn, {Why, 7000}, Over)),
    ?assertMatch({ok, 0, _}, ?S:want(1, pid(Next), in_turn, {{max_requests, 1}, 3000}, Over)).

%% Only the last timer of a slot counts, and none that a start has overtaken.
timers_of_former_times(_) ->
    [Old, New] = [make_ref(), make_ref()],
    Empty = ?S:set_timer(1, New, ?S:set_timer(1, Old, ?S:add(1, ?S:new()))),
    ?assertEqual(stale, ?S:timer_due(1, Old, Empty)),
    ?assertMatch({start, _}, ?S:timer_due(1, New, Empty)),
    ?assertEqual(stale, ?S:timer_due(1, New, ?S:put_worker(1, process(0), Empty))),
    {Process, Ready} = ready(0),
    {ok, 0, Wanting} = ?S:want(1, pid(Process), now, {timeout, 0}, Ready),
    Waiting = ?S:set_timer(1, Old, Wanting),
    ?assertEqual([], ?S:due(1, Waiting)),
    {successor, Due} = ?S:timer_due(1, Old, Waiting),
    ?assertEqual([{1, timeout}], ?S:due(1, Due)).

%% Who is ready leaves, who is starting is discarded.
retire_in_each_phase(_) ->
    Next = process(1),
    {Process, Ready} = ready(0),
    {[Leaving], [Starting], Gone} = ?S:retire(1, ?S:put_successor(1, Next, reload, Ready)),
    ?assertEqual([pid(Process), pid(Next)], [pid(Leaving), pid(Starting)]),
    ?assertEqual({missing, [], 0}, {?S:state(1, Gone), ?S:ids(Gone), ?S:count(Gone)}),
    ?assertMatch({left, _, _}, ?S:down(1, monitor(Process), gone, 0, Gone)),
    ?assertMatch({left, _, _}, ?S:down(1, monitor(Next), gone, 0, Gone)),
    ?assertEqual(unknown, ?S:ready(1, pid(Next), self(), 0, Gone)),
    Empty = ?S:add(1, ?S:new()),
    ?assertMatch({[], [], _}, ?S:retire(1, Empty)),
    ?assertMatch({[], [Next], _}, ?S:retire(1, ?S:put_worker(1, Next, Empty))).

%% Its place is free at once, its end is waited for.
discard_what_starts(_) ->
    {_, Ready} = ready(0),
    Next = process(0),
    {Next, Back} = ?S:discard(1, ?S:put_successor(1, Next, reload, Ready)),
    ?assertEqual({ready, 0, none}, ?S:state(1, Back)),
    ?assertMatch({left, _, _}, ?S:down(1, monitor(Next), gone, 0, Back)),
    {Next, Empty} = ?S:discard(1, ?S:put_worker(1, Next, ?S:add(1, ?S:new()))),
    ?assertEqual({backoff, none, none}, ?S:state(1, Empty)).

%% One, then a quarter at a time.
reload_in_steps(_) ->
    {_, Ready} = all_ready(8),
    Begun = ?R:begin_reload(1, ?S:ids(Ready), asked()),
    {[{succeed, 1}], First} = ?R:step(Ready, Begun),
    ?assertMatch({[], _}, ?R:step(Ready, First)),
    One = renew(1, Ready),
    {[{succeed, 2}, {succeed, 3}], Second} = ?R:step(One, First),
    Two = renew(2, One),
    {[{succeed, 4}], Third} = ?R:step(Two, Second),
    {_, Last} = lists:foldl(fun(Id, {Slots, Rollout}) ->
        Renewed = renew(Id, Slots),
        case ?R:step(Renewed, Rollout) of
            {_, Next} -> {Renewed, Next};
            done -> {Renewed, done}
        end
    end, {Two, Third}, [3, 4, 5, 6, 7, 8]),
    ?assertEqual(done, Last).

%% What has died, was started or was taken away meanwhile is no work of ours.
reload_of_what_is_new_already(_) ->
    {_, Ready} = all_ready(3),
    Begun = ?R:begin_reload(1, ?S:ids(Ready), asked()),
    {[{succeed, 1}], First} = ?R:step(Ready, Begun),
    {_, _, Without} = ?S:retire(3, renew(2, renew(1, Ready))),
    ?assertEqual(done, ?R:step(Without, First)),
    Empty = ?S:add(1, ?S:new()),
    ?assertMatch({[{start, 1}], _}, ?R:step(Empty, ?R:begin_reload(1, [1], asked()))),
    ?assertEqual(idle, ?R:step(Empty, ?R:new())).

%% Who comes before a reload begins shares it; order is kept, also with another number between.
reloads_are_shared(_) ->
    [A, B, C, D] = [{self(), Tag} || Tag <- [a, b, c, d]],
    Asked = ?R:ask_for_reload(D, ?R:ask_for_scale(3, C, ?R:ask_for_reload(B,
        ?R:ask_for_reload(A, ?R:new())))),
    {reload, First} = ?R:next(Asked),
    ?assertEqual(none, ?R:next(First)),
    {reload, Waiters, Rest} = ?R:finish(First),
    ?assertEqual([A, B], lists:sort(Waiters)),
    {{scale, 3}, Second} = ?R:next(Rest),
    {{scale, 1}, [C], Rest2} = ?R:finish(?R:begin_scale(1, [2, 3], Second)),
    {reload, Third} = ?R:next(Rest2),
    ?assertMatch({reload, [D], _}, ?R:finish(Third)).

%% Only new processes of slots that are just being renewed.
what_a_failure_concerns(_) ->
    {_, Ready} = all_ready(2),
    {_, Reload} = ?R:step(Ready, ?R:begin_reload(2, [1, 2], asked())),
    ?assertEqual([true, false, false], [?R:concerns(1, 2, Reload), ?R:concerns(1, 1, Reload),
                                        ?R:concerns(2, 2, Reload)]),
    {_, Asked} = ?R:next(?R:ask_for_scale(3, {self(), a}, ?R:new())),
    Scale = ?R:begin_scale(2, [3], Asked),
    ?assertEqual([true, false], [?R:concerns(Id, 0, Scale) || Id <- [3, 1]]),
    ?assertNot(?R:concerns(1, 0, ?R:new())).

%% Internal.

%% A process as the slots see it: nothing of it is used.
process(Generation) ->
    #{pid => spawn(fun() -> ok end), monitor => make_ref(), routes => make_ref(),
      load => make_ref(), generation => Generation}.

pid(#{pid := Pid}) -> Pid.

monitor(#{monitor := Monitor}) -> Monitor.

%% One slot whose worker became ready at 0.
ready(Generation) ->
    Process = process(Generation),
    Starting = ?S:put_worker(1, Process, ?S:add(1, ?S:new())),
    {started, Ready} = ?S:ready(1, pid(Process), self(), 0, Starting),
    {Process, Ready}.

all_ready(Count) ->
    lists:mapfoldl(fun(Id, Slots) ->
        Process = process(0),
        {started, Ready} = ?S:ready(Id, pid(Process), self(), 0,
                                    ?S:put_worker(Id, Process, ?S:add(Id, Slots))),
        {{Id, Process}, Ready}
    end, ?S:new(), lists:seq(1, Count)).

renew(Id, Slots) ->
    Next = process(1),
    {replaced, _, Renewed} =
        ?S:ready(Id, pid(Next), self(), 1, ?S:put_successor(Id, Next, reload, Slots)),
    Renewed.

%% A reload that is about to begin.
asked() ->
    {reload, Rollout} = ?R:next(?R:ask_for_reload({self(), tag}, ?R:new())),
    Rollout.
