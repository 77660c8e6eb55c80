%% SPDX-License-Identifier: Apache-2.0
%% Clients beside a pool whose workers are replaced, killed, blocked, and more or fewer: the real
%% pool, queue, places, routes and exchanges, with workers in Erlang (hornbeam_test_pool).
%%
%% Whatever happens: each request has one answer, none runs twice unless its method allows that,
%% none is lost while no worker dies, no place is lost or doubled, and all reloads come to an end.
-module(prop_pool).

-include("hornbeam_proper.hrl").

-import(proper_types, [frequency/1, integer/2, list/1, oneof/1, resize/2, vector/2]).

-export([runs/0]).
-export([prop_nothing_is_lost/0]).
-export([prop_deaths_cost_only_their_own/0]).

-define(NAME, ?MODULE).
-define(CLIENTS, 8).
-define(PATIENCE_MS, 20000).
-define(SCOPE(Method, Key),
        {Method, <<"http">>, <<"1.1">>, Key, <<>>, [], undefined, undefined, #{}}).

runs() -> 25.

%% Reloads, replacements, other numbers of workers, blocked loops: no request is the worse for it.
prop_nothing_is_lost() ->
    ?FORALL({Max, Clients, Steps}, scenario(peace()), begin
        {Results, Executed, Left} = run(Max, infinity, Clients, Steps),
        Wrong = [Result || Result = {_, _, Answer} <- Results, Answer =/= 200, Answer =/= left],
        Again = [Key || {Key, Count} <- Executed, Count > 1],
        report({Wrong, Again, Left}, {[], [], []})
    end).

%% Nor are they for workers that die or do not start, but for what these have had.
prop_deaths_cost_only_their_own() ->
    ?FORALL({{Max, Clients, Steps}, Fails},
            {scenario([{2, {tell, kill, integer(1, 4)}} | peace()]), integer(3, 9)}, begin
        {Results, Executed, Left} = run(Max, Fails, Clients, Steps),
        Counts = maps:from_list(Executed),
        Wrong = [Result || Result = {Method, Key, Answer} <- Results,
                           not may_be(Method, Answer, maps:get(Key, Counts))],
        report({Wrong, Left}, {[], []})
    end).

may_be(_, {waits, _}, _) -> false;
may_be(_, 200, Count) when Count < 1 -> false;
may_be(_, 503, _) -> false;
may_be(<<"POST">>, _, Count) -> Count =< 1;
may_be(<<"GET">>, Answer, Count) ->
    %% One more life: both of its workers have been killed.
    Count =< 2 andalso lists:member(Answer, [200, 502, left]).

report(Same, Same) -> true;
report(Got, _) -> io:format("~p~n", [Got]), false.

%%% Generators

scenario(Steps) ->
    {integer(1, 3), vector(?CLIENTS, resize(8, list(request()))),
     resize(8, list(frequency([{3, {pause, integer(0, 8)}} | Steps])))}.

request() ->
    {oneof([<<"GET">>, <<"POST">>]), frequency([{6, stay}, {1, {leave, integer(0, 4)}}])}.

peace() ->
    [{2, reload}, {1, {scale, integer(1, 3)}},
     {5, {tell, oneof([stall, revoke, recover, replace]), integer(1, 4)}}].

%%% The run

run(Max, Fails, Clients, Steps) ->
    WasTrapping = process_flag(trap_exit, true),
    #{level := Level} = logger:get_primary_config(),
    ok = logger:set_primary_config(level, none),
    _ = ets:whereis(hornbeam_selection) =:= undefined andalso hornbeam_selection:create_table(),
    Pool = hornbeam_test_pool:start(?NAME, #{max_concurrency => Max, fails => Fails}),
    try
        Running = [begin_client(N, Client) || {N, Client} <- number(Clients)],
        Asked = lists:append([step(Step, Pool) || Step <- Steps]),
        %% What is blocked is not so for ever.
        Waker = spawn_link(fun() -> wake(Pool) end),
        Results = lists:append([result(Pid) || Pid <- Running]),
        Outcomes = [result(Pid) || Pid <- Asked],
        Left = [Outcome || Outcome <- Outcomes, not is_outcome(Outcome)]
            ++ unsettled(Pool) ++ hornbeam_test_pool:violations(Pool),
        unlink(Waker),
        exit(Waker, kill),
        {Results, [{Key, hornbeam_test_pool:executions(Key, Pool)} || {_, Key, _} <- Results], Left}
    after
        hornbeam_test_pool:stop(Pool),
        logger:set_primary_config(level, Level),
        process_flag(trap_exit, WasTrapping)
    end.

is_outcome(ok) -> true;
is_outcome({error, _}) -> true;
is_outcome(_) -> false.

number(List) ->
    lists:zip(lists:seq(1, length(List)), List).

step({pause, Ms}, _) ->
    timer:sleep(Ms),
    [];
step(reload, Pool) ->
    [task(fun() -> hornbeam_pool:reload(hornbeam_test_pool:pool(Pool)) end)];
step({scale, Count}, Pool) ->
    [task(fun() -> hornbeam_pool:scale(hornbeam_test_pool:pool(Pool), Count) end)];
step({tell, What, N}, Pool) ->
    _ = case hornbeam_test_pool:workers(Pool) of
        [] -> ok;
        Workers -> hornbeam_test_pool:tell(What, lists:nth(1 + N rem length(Workers), Workers))
    end,
    [].

wake(Pool) ->
    [hornbeam_test_pool:tell(recover, Pid) || Pid <- hornbeam_test_pool:workers(Pool)],
    timer:sleep(5),
    wake(Pool).

task(Fun) ->
    Test = self(),
    spawn_link(fun() -> Test ! {self(), Fun()} end).

result(Pid) ->
    receive
        {Pid, Result} -> Result
    after ?PATIENCE_MS ->
        %% One without an answer.
        [{<<"?">>, <<"?">>, {waits, process_info(Pid, messages)}}]
    end.

%% Where all is over all places are free, and nobody waits.
unsettled(Pool) ->
    unsettled(Pool, erlang:monotonic_time(millisecond) + ?PATIENCE_MS).

unsettled(Pool, DeadlineMs) ->
    Taken = taken(hornbeam_test_pool:pool(Pool)),
    case {Taken, erlang:monotonic_time(millisecond) > DeadlineMs} of
        {[], _} -> [];
        {_, true} -> Taken;
        {_, false} -> timer:sleep(2), unsettled(Pool, DeadlineMs)
    end.

taken(Pool) ->
    [{_, _, Workers, _, Waiting, _}] = ets:lookup(hornbeam_selection, ?NAME),
    #{queue := Queue} = maps:with([queue], element(2, gen_server:call(Pool, info))),
    [{queue, Queue} || Queue > 0]
        ++ [waiting || hornbeam_selection:is_somebody_waiting(Waiting)]
        ++ [no_workers || Workers =:= []]
        ++ [{places, Load, Rows} || Worker <- Workers, {Load, Rows} <- [places(Worker)],
                                    Load =/= 0 orelse Rows =/= 0].

places({worker, _, _, Routes, Load}) ->
    {hornbeam_load:in_flight(Load), hornbeam_routes:count(Routes)}.

%%% The clients: each is a connection, whose requests come one after another.

begin_client(N, Requests) ->
    Test = self(),
    spawn_link(fun() ->
        Server = server(),
        Connection = #{activity => atomics:new(5, [{signed, true}])},
        Test ! {self(), [request({N, I}, Request, Server, Connection)
                         || {I, Request} <- number(Requests)]}
    end).

server() ->
    #{name => ?NAME, timeout => infinity, body_timeout => infinity, send_timeout => infinity,
      max_body => infinity, window => 65536, max_skipped => 0, retry => true,
      queue_timeout => infinity,
      server_header => undefined, date_header => false}.

request({N, I}, {Method, Patience}, Server, Connection) ->
    Key = iolist_to_binary(io_lib:format("~b.~b", [N, I])),
    Req = #{version => 'HTTP/1.1', method => Method, has_body => false, body_length => 0,
            headers => #{}},
    Request = hornbeam_request:new(I, Req, Server, Connection),
    Exchange = hornbeam_exchange:new(?SCOPE(Method, Key), undefined, Req, Request),
    hornbeam_connection:stream_began(Connection),
    _ = case Patience of
        stay -> ok;
        {leave, Ms} -> erlang:send_after(Ms, self(), {{self(), I}, leave})
    end,
    Answer = converse(I, [], hornbeam_exchange:proceed(Exchange)),
    {Method, Key, Answer}.

converse(I, Before, {Commands, Exchange}) ->
    Answers = Before ++ [Status || {response, Status, _, _} <- Commands],
    case lists:member(stop, Commands) of
        true ->
            ok = hornbeam_exchange:terminate(Exchange),
            case Answers of
                [Status] -> Status;
                _ -> {answers, Answers}
            end;
        false ->
            receive
                {{Pid, I}, leave} when Pid =:= self() ->
                    ok = hornbeam_exchange:terminate(Exchange),
                    left;
                {{Pid, I}, Message} when Pid =:= self() ->
                    converse(I, Answers, hornbeam_exchange:info(Message, Exchange))
            end
    end.
