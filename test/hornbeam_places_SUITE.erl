%% SPDX-License-Identifier: Apache-2.0
%% Places in a worker between their taking and the request that they were taken for: of connections
%% that are killed in between, and of such as get no time to run.
-module(hornbeam_places_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([suite/0]).
-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([lost_place_comes_back/1]).
-export([lost_places_do_not_keep_a_worker/1]).
-export([busy_places_are_not_lost/1]).
-export([a_slow_one_gets_its_place_back/1]).
-export([requests_go_before_the_shutdown/1]).

-import(hornbeam_test_client, [connect/1, get/2, response/1]).
-import(hornbeam_test_server, [start/2, worker_info/2]).
-import(hornbeam_test_wait, [until/1]).

suite() ->
    [{timetrap, {seconds, 60}}].

all() ->
    [
        lost_place_comes_back,
        lost_places_do_not_keep_a_worker,
        busy_places_are_not_lost,
        a_slow_one_gets_its_place_back,
        requests_go_before_the_shutdown
    ].

init_per_suite(Config) ->
    hornbeam_test_suite:start_node(Config).

end_per_suite(Config) ->
    hornbeam_test_suite:stop_node(Config).

init_per_testcase(_, Config) ->
    hornbeam_test_suite:start_case(Config).

end_per_testcase(_, Config) ->
    hornbeam_test_suite:end_case(Config).

%% A connection is killed when it has a place and no request for it yet: others get it.
lost_place_comes_back(Config) ->
    Port = start(Config, #{max_concurrency => 1, heartbeat => 20}),
    take_and_die(1),
    ?assertMatch(#{in_flight := 1}, worker_info(default, 1)),
    Socket = connect(Port),
    get(Socket, "/hello"),
    ?assertMatch(#{status := 200}, response(Socket)),
    until(fun() -> maps:get(in_flight, worker_info(default, 1)) =:= 0 end).

%% One that is replaced waits for all that have a place in it.
lost_places_do_not_keep_a_worker(Config) ->
    _ = start(Config, #{heartbeat => 20}),
    take_and_die(3),
    [Former] = hornbeam_test_server:running(Config),
    ok = hornbeam:reload(),
    until(fun() -> not hornbeam_test_server:is_running(Former) end).

%% Some are always on their way while there is traffic; as long as it is less than a few at times,
%% none of them is lost. What is lost among them is found all the same.
busy_places_are_not_lost(_) ->
    {Load, Routes} = {hornbeam_load:new(), hornbeam_routes:new()},
    OnTheirWay = [3, 1, 2, 0, 4, 1, 2, 5, 1, 3, 2, 1],
    ?assertEqual([0], lists:usort(looks(OnTheirWay, Load, Routes))),
    [true = hornbeam_load:reserve(Load, 2) || _ <- lists:seq(1, 2)],
    Lost = looks(OnTheirWay, Load, Routes),
    ?assertEqual([0, 2], lists:usort(Lost)),
    ?assertEqual(2, lists:sum(Lost)),
    ?assertEqual(0, hornbeam_load:in_flight(Load)),
    hornbeam_routes:delete(Routes).

%% One that got no time to run for as long as it takes to be given up has its place when it goes on.
a_slow_one_gets_its_place_back(_) ->
    {Load, Routes} = {hornbeam_load:new(), hornbeam_routes:new()},
    true = hornbeam_load:reserve(Load, 1),
    ?assertEqual(1, lists:sum(looks(lists:duplicate(12, 0), Load, Routes))),
    ?assertEqual(0, hornbeam_load:in_flight(Load)),
    true = hornbeam_routes:insert(Routes, 1, {self(), 1}, 0),
    {-1, Places} = hornbeam_worker_places:look(0, Load, Routes, hornbeam_worker_places:new()),
    ?assertEqual(1, hornbeam_load:in_flight(Load)),
    ?assertMatch({0, _}, hornbeam_worker_places:look(0, Load, Routes, Places)),
    true = hornbeam_routes:done(Routes, 1),
    ok = hornbeam_load:release(Load),
    ?assertEqual([true, false], [hornbeam_load:reserve(Load, 1) || _ <- [1, 2]]),
    hornbeam_routes:delete(Routes).

%% A connection has entered its request and gets no time to run before it sends it: a worker that is
%% being replaced is told to end behind it, or the request, which nobody may repeat, would be lost.
requests_go_before_the_shutdown(_) ->
    {Load, Routes, Monitor} = {hornbeam_load:new(), hornbeam_routes:new(), make_ref()},
    ok = hornbeam_load:open(Load),
    ok = hornbeam_selection:publish(places, [{self(), self(), Routes, Load}], 10,
                                    hornbeam_selection:new_waiting(1), asgi),
    Connection = suspended_while_it_sends(Load, Routes, 1000000),
    Process = #{pid => self(), monitor => Monitor, load => Load, routes => Routes},
    ok = hornbeam_worker_life:drain(Process),
    [begin
        receive {timeout, _, {stop_drained, Monitor}} -> ok after 5000 -> error({told, told()}) end,
        ok = hornbeam_worker_life:stop_drained(Process, 1000)
     end || _ <- lists:seq(1, 3)],
    ?assertEqual([], told()),
    true = erlang:resume_process(Connection),
    drain(Process),
    ?assertEqual([request, stop], told()),
    ok = hornbeam_selection:forget(places),
    hornbeam_routes:delete(Routes).

%%% Internal

take_and_die(Count) ->
    {Pid, Monitor} = spawn_monitor(fun() ->
        [{ok, _} = hornbeam_selection:checkout(default, new, any) || _ <- lists:seq(1, Count)],
        exit(self(), kill)
    end),
    receive {'DOWN', Monitor, process, Pid, Reason} -> ?assertEqual(killed, Reason) end.

%% What is found with so many places that have no request yet, at looks of a quarter of a second.
looks(OnTheirWay, Load, Routes) ->
    {Found, _} = lists:mapfoldl(fun(N, {NowMs, Before}) ->
        [true = hornbeam_load:reserve(Load, 1000) || _ <- lists:seq(1, N)],
        {Lost, Places} = hornbeam_worker_places:look(NowMs, Load, Routes, Before),
        [ok = hornbeam_load:release(Load) || _ <- lists:seq(1, N)],
        {Lost, {NowMs + 250, Places}}
    end, {0, hornbeam_worker_places:new()}, OnTheirWay),
    Found.

%% The encoding of what it sends takes so long that it can be caught at it; if it is missed all the
%% same, of more.
suspended_while_it_sends(Load, Routes, Size) ->
    {Connection, Monitor} = spawn_monitor(fun() -> send(lists:seq(1, Size)) end),
    await_route(Routes),
    Suspended = is_suspended(Connection),
    case told() of
        [] ->
            true = Suspended,
            true = demonitor(Monitor, [flush]),
            Connection;
        [request] ->
            _ = Suspended andalso erlang:resume_process(Connection),
            receive {'DOWN', Monitor, process, Connection, normal} -> ok end,
            receive {send, _} -> ok end,
            [true] = [hornbeam_routes:done(Routes, Id) || {Id, _, _, _, _} <- ets:tab2list(Routes)],
            ok = hornbeam_load:release(Load),
            suspended_while_it_sends(Load, Routes, 2 * Size)
    end.

%% Without a pause in between.
await_route(Routes) ->
    hornbeam_routes:count(Routes) =:= 1 orelse begin erlang:yield(), await_route(Routes) end.

is_suspended(Connection) ->
    try erlang:suspend_process(Connection)
    catch error:badarg -> false
    end.

send(Scope) ->
    Request = #{stream_id => 1, method => <<"POST">>, version => 'HTTP/1.1',
                server => #{name => places, window => 65536, retry => true}},
    Body = hornbeam_request_body:new(#{has_body => false, body_length => 0}, Request),
    {dispatched, _, _} = hornbeam_dispatch:to_worker(new, undefined, Body, Request,
                                                     hornbeam_dispatch:new(Scope)).

drain(Process = #{monitor := Monitor}) ->
    receive
        {timeout, _, {stop_drained, Monitor}} ->
            ok = hornbeam_worker_life:stop_drained(Process, 1000),
            {messages, Messages} = process_info(self(), messages),
            lists:keymember('$gen_cast', 1, Messages) orelse drain(Process)
    end.

%% What the worker and its writer have been told, in order.
told() ->
    {messages, Messages} = process_info(self(), messages),
    lists:append([what(Message) || Message <- Messages]).

what({send, _}) -> [request];
what({'$gen_cast', {stop, 1000}}) -> [stop];
what(_) -> [].
