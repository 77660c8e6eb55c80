%% SPDX-License-Identifier: Apache-2.0
%% Hooks: Erlang handlers and those of workers, from Erlang, from workers and from other nodes.
-module(hornbeam_hooks_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([erlang_handlers/1]).
-export([module_as_handler/1]).
-export([not_found/1]).
-export([handler_crashes/1]).
-export([handler_is_killed_with_its_caller/1]).
-export([streams_of_erlang/1]).
-export([streams_wait_for_their_consumer/1]).
-export([stream_errors/1]).
-export([stream_cancelled/1]).
-export([stream_ends_with_its_owner/1]).
-export([stream_timeout/1]).
-export([worker_hooks/1]).
-export([free_before_the_answer/1]).
-export([worker_hook_timeout/1]).
-export([worker_says_too_much/1]).
-export([worker_dies/1]).
-export([worker_streams/1]).
-export([worker_stream_cancelled/1]).
-export([worker_stream_dies/1]).
-export([worker_ignores_credit/1]).
-export([too_many_streams_of_a_worker/1]).
-export([fewest_in_flight/1]).
-export([dead_members_are_passed_over/1]).
-export([gone_after_stop/1]).
-export([worker_executes/1]).
-export([worker_takes_streams/1]).
-export([worker_takes_streams_of_workers/1]).
-export([registry_comes_back/1]).
-export([scope_crashes/1]).
-export([across_nodes/1]).

%% Handler
-export([handle/1]).
%% Called on other nodes.
-export([take/2]).

-behaviour(hornbeam_hooks).

all() ->
    [
        erlang_handlers,
        module_as_handler,
        not_found,
        handler_crashes,
        handler_is_killed_with_its_caller,
        streams_of_erlang,
        streams_wait_for_their_consumer,
        stream_errors,
        stream_cancelled,
        stream_ends_with_its_owner,
        stream_timeout,
        worker_hooks,
        free_before_the_answer,
        worker_hook_timeout,
        worker_says_too_much,
        worker_dies,
        worker_streams,
        worker_stream_cancelled,
        worker_stream_dies,
        worker_ignores_credit,
        too_many_streams_of_a_worker,
        fewest_in_flight,
        dead_members_are_passed_over,
        gone_after_stop,
        worker_executes,
        worker_takes_streams,
        worker_takes_streams_of_workers,
        registry_comes_back,
        scope_crashes,
        across_nodes
    ].

%% How many a worker may take.
-define(MAX_STREAMS, 10000).

init_per_testcase(_, Config) ->
    _ = application:stop(hornbeam),
    {ok, _} = application:ensure_all_started(hornbeam),
    hornbeam_test_server:new_folder(Config).

end_per_testcase(_, _) ->
    _ = application:stop(hornbeam),
    ok.

%% What the handler gets and what becomes of its result.
erlang_handlers(_) ->
    ok = hornbeam_hooks:register("echo", fun(Request) -> Request end),
    ?assertEqual(
        {ok, #{path => <<"echo">>, method => <<"m">>, args => [1, {a}], kind => call,
               kwargs => #{<<"k">> => 2}}},
        hornbeam_hooks:execute(<<"echo">>, "m", [1, {a}], #{kwargs => #{<<"k">> => 2}})
    ),
    ?assertMatch({ok, #{method := undefined, args := [], kwargs := #{}}},
                 hornbeam_hooks:execute("echo", undefined, [])),
    ok = hornbeam_hooks:register("echo", fun(_) -> another end),
    ?assertEqual({ok, another}, hornbeam_hooks:execute("echo", undefined, [])),
    ?assert(hornbeam_hooks:unregister("echo")),
    ?assertNot(hornbeam_hooks:unregister("echo")).

module_as_handler(_) ->
    ok = hornbeam_hooks:register("suite", ?MODULE),
    ?assertEqual({ok, {handled, [1]}}, hornbeam_hooks:execute("suite", undefined, [1])).

not_found(_) ->
    ok = hornbeam_hooks:register("prices", fun(_) -> 1 end),
    Error = {error, {service_not_found, #{path => <<"price">>, near => [<<"prices">>]}}},
    ?assertEqual(Error, hornbeam_hooks:execute("price", undefined, [])),
    ?assertEqual(Error, hornbeam_hooks:stream("price", undefined, [])),
    true = hornbeam_hooks:unregister("prices"),
    ?assertMatch({error, {service_not_found, #{near := []}}},
                 hornbeam_hooks:execute("prices", undefined, [])),
    ?assertEqual({messages, []}, process_info(self(), messages)).

handler_crashes(_) ->
    ok = hornbeam_hooks:register("f", fun(#{args := [Reason]}) -> error(Reason) end),
    {error, {remote_error, Facts}} = hornbeam_hooks:execute("f", undefined, [oops]),
    ?assertMatch(#{class := <<"error">>, reason := <<"oops">>}, Facts),
    ?assertMatch({_, _}, binary:match(maps:get(stack, Facts), <<"hornbeam_hooks_SUITE">>)),
    ?assertMatch({error, {remote_error, #{reason := <<"function_clause">>}}},
                 hornbeam_hooks:execute("f", undefined, [])).

handler_is_killed_with_its_caller(_) ->
    register_waiting(),
    Self = self(),
    ?assertMatch({error, {timeout, #{timeout_ms := 50}}},
                 hornbeam_hooks:execute("waits", undefined, [Self], #{timeout => 50})),
    await_dead(await_runs()),
    Options = #{timeout => infinity},
    Caller = spawn(fun() -> hornbeam_hooks:execute("waits", undefined, [Self], Options) end),
    Runner = await_runs(),
    exit(Caller, kill),
    await_dead(Runner).

%% By `emit', or as a list; both end.
streams_of_erlang(_) ->
    ok = hornbeam_hooks:register("count", fun count/1),
    [begin
         {ok, Stream} = hornbeam_hooks:stream("count", Method, [100]),
         ?assertEqual({lists:seq(1, 100), done}, read(Stream)),
         ?assertEqual(done, hornbeam_hooks:next(Stream))
     end || Method <- ["emit", "list"]],
    {ok, Empty} = hornbeam_hooks:stream("count", "list", [0]),
    ?assertEqual({[], done}, read(Empty)),
    ?assertEqual({messages, []}, process_info(self(), messages)).

%% No more items come than the consumer has asked for, give or take the window.
streams_wait_for_their_consumer(_) ->
    Self = self(),
    ok = hornbeam_hooks:register("told", fun(#{emit := Emit}) ->
        [begin ok = Emit(N), Self ! {emitted, N} end || N <- lists:seq(1, 1000)],
        ok
    end),
    {ok, Stream} = hornbeam_hooks:stream("told", undefined, []),
    [{ok, N} = hornbeam_hooks:next(Stream) || N <- lists:seq(1, 100)],
    [receive {emitted, N} -> ok end || N <- lists:seq(1, 116)],
    {error, timeout} = receive {emitted, N} -> {emitted, N} after 50 -> {error, timeout} end,
    ?assertMatch({_, done}, read(Stream)).

stream_errors(_) ->
    ok = hornbeam_hooks:register("breaks", fun(#{emit := Emit}) -> Emit(1), error(oops) end),
    {ok, Broken} = hornbeam_hooks:stream("breaks", undefined, []),
    ?assertMatch({[1], {error, {remote_error, #{reason := <<"oops">>}}}}, read(Broken)),
    ok = hornbeam_hooks:register("wrong", fun(_) -> 5 end),
    {ok, Wrong} = hornbeam_hooks:stream("wrong", undefined, []),
    ?assertMatch({[], {error, {remote_error, #{class := <<"error">>}}}}, read(Wrong)).

stream_cancelled(_) ->
    register_waiting(),
    {ok, Stream} = hornbeam_hooks:stream("waits", undefined, [self()]),
    Runner = await_runs(),
    ok = hornbeam_hooks:cancel(Stream),
    await_dead(Runner),
    ?assertEqual(done, hornbeam_hooks:next(Stream)),
    ok = hornbeam_hooks:cancel(Stream),
    ?assertEqual({messages, []}, process_info(self(), messages)).

stream_ends_with_its_owner(_) ->
    register_waiting(),
    Self = self(),
    Owner = spawn(fun() ->
        {ok, Stream} = hornbeam_hooks:stream("waits", undefined, [Self], #{timeout => infinity}),
        hornbeam_hooks:next(Stream)
    end),
    Runner = await_runs(),
    exit(Owner, kill),
    await_dead(Runner).

%% The time runs while the consumer waits, anew for each item.
stream_timeout(_) ->
    ok = hornbeam_hooks:register("slow", fun(#{emit := Emit}) ->
        Emit(1),
        receive never -> ok end
    end),
    {ok, Stream} = hornbeam_hooks:stream("slow", undefined, [], #{timeout => 100}),
    ?assertEqual({[1], {error, {timeout, #{timeout_ms => 100}}}}, read(Stream)).

%% As Erlang code invokes them.
worker_hooks(Config) ->
    _ = start(Config, ["echo", "fail"]),
    ?assertEqual({ok, {1, [1, <<"a">>], #{<<"k">> => []}}},
                 hornbeam_hooks:execute("echo", "method", [1, <<"a">>],
                                        #{kwargs => #{<<"k">> => []}})),
    hornbeam_test_server:await_seen(Config, <<"1 invoke echo call method">>),
    ?assertEqual({error, {remote_error, #{class => <<"ValueError">>, stack => <<"Traceback ...">>,
                                          reason => <<"no such thing">>}}},
                 hornbeam_hooks:execute("fail", undefined, [])),
    ?assertMatch({error, {service_not_found, _}}, hornbeam_hooks:execute("never", undefined, [])),
    ?assertEqual(0, in_flight()),
    ok = hornbeam:stop().

%% Whoever has the answer, or the error, finds the worker as free as it is.
free_before_the_answer(_) ->
    Caller = self(),
    Invocation = {<<"f">>, undefined, <<131, 106>>, <<131, 116, 0:32>>, stream},
    Answer = fun(Say) ->
        Ref = make_ref(),
        {[{invoke, Id, _, _, _, _, _}], Hooks} =
            hornbeam_worker_hooks:invoke(Caller, Ref, Invocation, hornbeam_worker_hooks:new()),
        _ = Say(Id, Hooks)
    end,
    1 = erlang:trace_pattern({hornbeam_hook_registry, count_down, 1}, true, []),
    [?assertEqual([counted_down, answered], events_of(fun() -> Answer(Say) end))
     || Say <- [fun(Id, Hooks) -> hornbeam_worker_hooks:result(Id, {ok, <<131, 106>>}, Hooks) end,
                fun(Id, Hooks) -> hornbeam_worker_hooks:produce(Id, <<131, 106>>, Hooks) end]],
    1 = erlang:trace_pattern({hornbeam_hook_registry, count_down, 1}, false, []).

%% In which order a process of its own counts down and answers the test.
events_of(Fun) ->
    {Pid, Monitor} = spawn_monitor(fun() -> receive go -> Fun() end end),
    1 = erlang:trace(Pid, true, [call, send]),
    Pid ! go,
    receive {'DOWN', Monitor, process, Pid, Reason} -> ?assertEqual(normal, Reason) end,
    Delivered = erlang:trace_delivered(Pid),
    receive {trace_delivered, Pid, Delivered} -> ok end,
    traced(Pid).

traced(Pid) ->
    receive
        {trace, Pid, call, {hornbeam_hook_registry, count_down, _}} -> [counted_down | traced(Pid)];
        {trace, Pid, send, {hornbeam_result, _, _}, _} -> [answered | traced(Pid)];
        {trace, Pid, _, _} -> traced(Pid);
        {trace, Pid, _, _, _} -> traced(Pid)
    after 0 ->
        []
    end.

%% The worker is told that nobody waits.
worker_hook_timeout(Config) ->
    _ = start(Config, ["never"]),
    ?assertEqual({error, {timeout, #{timeout_ms => 50}}},
                 hornbeam_hooks:execute("never", undefined, [], #{timeout => 50})),
    hornbeam_test_server:await_seen(Config, <<"1 invoke_cancel">>),
    hornbeam_test_wait:until(fun() -> in_flight() =:= 0 end),
    ok = hornbeam:stop().

%% A second result and results of nothing are dropped.
worker_says_too_much(Config) ->
    Port = start(Config, ["twice", "echo"]),
    ?assertEqual({ok, <<"one">>}, hornbeam_hooks:execute("twice", undefined, [])),
    ?assertMatch({ok, _}, hornbeam_hooks:execute("echo", undefined, [])),
    ?assertEqual({messages, []}, process_info(self(), messages)),
    ?assertMatch(#{status := 200}, hornbeam_test_client:request(Port, "/hello")),
    ok = hornbeam:stop().

%% Its callers learn it at once, not at their deadline.
worker_dies(Config) ->
    _ = start(Config, ["die", "never"]),
    ?assertEqual({error, {service_down, #{path => <<"die">>}}},
                 hornbeam_hooks:execute("die", undefined, [], #{timeout => infinity})),
    hornbeam_test_wait:until(fun() ->
        {error, {service_not_found, #{path => <<"die">>, near => []}}} =:=
            hornbeam_hooks:execute("die", undefined, [])
    end),
    ok = hornbeam:stop().

worker_streams(Config) ->
    _ = start(Config, ["count", "breaks"]),
    {ok, Stream} = hornbeam_hooks:stream("count", undefined, [100]),
    ?assertEqual({lists:seq(0, 99), done}, read(Stream)),
    hornbeam_test_server:await_seen(Config, <<"1 invoke count stream None">>),
    hornbeam_test_server:await_seen(Config, <<"1 invoke_credit 16">>),
    {ok, Broken} = hornbeam_hooks:stream("breaks", undefined, []),
    ?assertMatch({[1], {error, {remote_error, #{class := <<"ValueError">>}}}}, read(Broken)),
    hornbeam_test_wait:until(fun() -> in_flight() =:= 0 end),
    ok = hornbeam:stop().

worker_stream_cancelled(Config) ->
    _ = start(Config, ["count"]),
    {ok, Stream} = hornbeam_hooks:stream("count", undefined, [1000000]),
    {ok, 0} = hornbeam_hooks:next(Stream),
    ok = hornbeam_hooks:cancel(Stream),
    hornbeam_test_server:await_seen(Config, <<"1 invoke_cancel">>),
    ?assertEqual({messages, []}, process_info(self(), messages)),
    ok = hornbeam:stop().

worker_stream_dies(Config) ->
    _ = start(Config, ["dies"]),
    {ok, Stream} = hornbeam_hooks:stream("dies", undefined, [], #{timeout => infinity}),
    ?assertMatch({_, {error, {service_down, #{path := <<"dies">>}}}}, read(Stream)),
    ok = hornbeam:stop().

%% A worker that sends what nobody asked for: the stream ends with an error, nothing piles up.
worker_ignores_credit(Config) ->
    Port = start(Config, ["greedy"]),
    {ok, Stream} = hornbeam_hooks:stream("greedy", undefined, []),
    {Items, {error, {remote_error, #{reason := Reason}}}} = read(Stream),
    ?assert(length(Items) < 1000),
    ?assertMatch({_, _}, binary:match(Reason, <<"more items">>)),
    hornbeam_test_server:await_seen(Config, <<"1 invoke_cancel">>),
    ?assertMatch(#{status := 200}, hornbeam_test_client:request(Port, "/hello")),
    ok = hornbeam:stop().

%% Streams have a bound of their own; one that is cancelled makes room.
too_many_streams_of_a_worker(Config) ->
    ok = hornbeam_hooks:register("waits", fun(_) -> receive never -> ok end end),
    Port = hornbeam_test_services:start(Config),
    Worker = hornbeam_test_server:worker_pid(default, 1),
    Before = erlang:system_info(process_count),
    [Args, Kwargs] = [hornbeam_blob:encode(Term) || Term <- [[], #{}]],
    Stream = {<<"waits">>, undefined, Args, Kwargs, infinity},
    Open = fun(Ids) ->
        hornbeam_test_services:said(Worker, [{call, Id, stream, Stream} || Id <- Ids])
    end,
    Call = fun(Name, Given) -> hornbeam_test_services:call(Port, Name, Given) end,
    More = fun() -> Call("stream", "(b'waits', None, blob([]), blob({}), 60000)") end,
    Open(lists:seq(1000001, 1000000 + ?MAX_STREAMS - 1)),
    ?assertEqual(<<"ok ", (integer_to_binary(?MAX_STREAMS))/binary>>, More()),
    Open(lists:seq(2000001, 2000100)),
    ?assertEqual(<<"error too_many_calls">>, More()),
    %% A stream's relay, what runs the handler, and its guard.
    ?assert(erlang:system_info(process_count) - Before < 3 * ?MAX_STREAMS + 100),
    %% Calls are counted apart.
    ?assertMatch(<<"error function_not_found">>, Call("call", "(b'none', blob([]), 1000)")),
    hornbeam_test_services:said(Worker, [{cast, stream_cancel, {1}}]),
    hornbeam_test_wait:until(fun() -> binary:match(More(), <<"ok ">>) =:= {0, 3} end),
    ?assertEqual(<<"error too_many_calls">>, More()),
    exit(Worker, kill),
    hornbeam_test_wait:until(fun() -> erlang:system_info(process_count) - Before < 100 end),
    true = hornbeam_hooks:unregister("waits"),
    ok = hornbeam:stop().

%% Of two workers that hold on to what they get, each gets half.
fewest_in_flight(Config) ->
    _ = start(Config, ["never"], #{workers => 2}),
    Execute = fun() ->
        hornbeam_hooks:execute("never", undefined, [], #{timeout => infinity})
    end,
    %% One after the other: two that choose at the same moment may choose the same.
    Callers = [begin
                   Caller = spawn(Execute),
                   hornbeam_test_wait:until(fun() -> in_flight() =:= N end),
                   Caller
               end || N <- lists:seq(1, 20)],
    Held = fun(Worker) -> length([L || L <- hornbeam_test_server:seen(Config), L =:= Worker]) end,
    hornbeam_test_wait:until(fun() -> Held(<<"1 never">>) + Held(<<"2 never">>) =:= 20 end),
    ?assertEqual({10, 10}, {Held(<<"1 never">>), Held(<<"2 never">>)}),
    ?assertEqual(20, in_flight()),
    [exit(Caller, kill) || Caller <- Callers],
    hornbeam_test_wait:until(fun() -> in_flight() =:= 0 end),
    ok = hornbeam:stop().

%% The group may name a process that has just died.
dead_members_are_passed_over(_) ->
    ok = hornbeam_hooks:register("f", fun(_) -> alive end),
    Dead = spawn(fun() -> receive never -> ok end end),
    ok = pg:join(hornbeam_hooks, <<"f">>, Dead),
    true = ets:insert(hornbeam_hook_registry, {{load, Dead}, -1}),
    %% The group's keeper does not learn that it ends.
    ok = sys:suspend(hornbeam_hooks),
    exit(Dead, kill),
    await_dead(Dead),
    ?assertEqual({ok, Dead}, hornbeam_hook_registry:pick(<<"f">>, [])),
    ?assertEqual({ok, alive}, hornbeam_hooks:execute("f", undefined, [])),
    {ok, Stream} = hornbeam_hooks:stream("f", undefined, []),
    ?assertMatch({[], {error, {remote_error, _}}}, read(Stream)),
    ok = sys:resume(hornbeam_hooks).

%% What a worker has registered goes with it; nothing is left in the table.
gone_after_stop(Config) ->
    _ = start(Config, ["echo"]),
    ok = hornbeam:stop(),
    ?assertMatch({error, {service_not_found, _}}, hornbeam_hooks:execute("echo", undefined, [])),
    hornbeam_test_wait:until(fun() -> ets:tab2list(hornbeam_hook_registry) =:= [] end).

%% A worker invokes an Erlang handler and a hook of another worker or of its own.
worker_executes(Config) ->
    Port = start(Config, ["echo", "fail"]),
    ok = hornbeam_hooks:register("sum", fun(#{args := Args}) -> lists:sum(Args) end),
    Call = fun(Args) -> hornbeam_test_services:call(Port, "execute", Args) end,
    ?assertEqual(<<"ok 6">>, Call("(b'sum', None, blob([1, 2, 3]), blob({}), 5000)")),
    ?assertEqual(<<"ok (1, [1], {})">>, Call("(b'echo', b'm', blob([1]), blob({}), infinity)")),
    ?assertEqual(<<"error remote_error">>, Call("(b'fail', None, blob([]), blob({}), 5000)")),
    ?assertEqual(<<"error remote_error">>, Call("(b'sum', None, blob([b'x']), blob({}), 5000)")),
    ?assertEqual(<<"error bad_arguments">>, Call("(b'sum', None, blob(1), blob({}), 5000)")),
    ?assertEqual(<<"error bad_arguments">>, Call("(b'sum', None, blob([]), blob([]), 5000)")),
    ?assertEqual(<<"error service_not_found">>, Call("(b'sun', None, blob([]), blob({}), 5000)")),
    ?assertEqual(<<"error unknown_function">>, Call("(b'sum', 1, blob([]), blob({}), 5000)")),
    <<"ok True">> = hornbeam_test_services:call(Port, "unregister_hook", "(b'echo',)"),
    <<"ok False">> = hornbeam_test_services:call(Port, "unregister_hook", "(b'echo',)"),
    ?assertEqual(<<"error service_not_found">>, Call("(b'echo', None, blob([]), blob({}), 5000)")),
    ok = hornbeam:stop().

%% Items come as credit is given, and the end last; a cancelled one comes no further.
worker_takes_streams(Config) ->
    Port = start(Config, []),
    ok = hornbeam_hooks:register("count", fun count/1),
    Stream = fun(Count) ->
        Args = io_lib:format("(b'count', b'emit', blob([~b]), blob({}), infinity)", [Count]),
        <<"ok ", Id/binary>> = hornbeam_test_services:call(Port, "stream", Args),
        binary_to_list(Id)
    end,
    Cast = fun(Function, Args) ->
        <<"cast">> = hornbeam_test_services:cast(Port, Function, Args)
    end,
    Id = Stream(5),
    ?assertEqual([], items(Config)),
    Cast("stream_credit", ["(", Id, ", 2)"]),
    hornbeam_test_wait:until(fun() -> length(items(Config)) =:= 2 end),
    Cast("stream_credit", ["(", Id, ", 10)"]),
    hornbeam_test_server:await_seen(Config, <<"1 stream_end">>),
    ?assertEqual([<<"1 item ", (integer_to_binary(N))/binary>> || N <- lists:seq(1, 5)],
                 items(Config)),
    register_waiting(),
    ok = hornbeam_hooks:register("told", fun(#{emit := Emit}) -> wait_in_stream(Emit) end),
    true = register(?MODULE, self()),
    <<"ok ", Told/binary>> =
        hornbeam_test_services:call(Port, "stream", "(b'told', None, blob([]), blob({}), 5000)"),
    Runner = await_runs(),
    Cast("stream_cancel", ["(", binary_to_list(Told), ",)"]),
    await_dead(Runner),
    Cast("stream_cancel", "(12345,)"),
    Cast("stream_credit", "(12345, 1)"),
    ?assertEqual(<<"error service_not_found">>,
                 hornbeam_test_services:call(Port, "stream",
                                             "(b'nothing', None, blob([]), blob({}), 5000)")),
    %% A stream's consumer that dies ends it.
    <<"ok ", _/binary>> =
        hornbeam_test_services:call(Port, "stream", "(b'told', None, blob([]), blob({}), 5000)"),
    Second = await_runs(),
    exit(hornbeam_test_server:worker_pid(default, 1), kill),
    await_dead(Second),
    ok = hornbeam:stop().

%% From worker to worker, with the timeout of an item that does not come.
worker_takes_streams_of_workers(Config) ->
    Port = start(Config, ["count", "never"]),
    <<"ok ", Id/binary>> = hornbeam_test_services:call(
        Port, "stream", "(b'count', None, blob([3]), blob({}), 5000)"),
    <<"cast">> = hornbeam_test_services:cast(Port, "stream_credit",
                                             ["(", binary_to_list(Id), ", 9)"]),
    hornbeam_test_server:await_seen(Config, <<"1 stream_end">>),
    ?assertEqual([<<"1 item 0">>, <<"1 item 1">>, <<"1 item 2">>], items(Config)),
    <<"ok ", Never/binary>> = hornbeam_test_services:call(
        Port, "stream", "(b'never', None, blob([]), blob({}), 20)"),
    <<"cast">> = hornbeam_test_services:cast(Port, "stream_credit",
                                             ["(", binary_to_list(Never), ", 1)"]),
    hornbeam_test_server:await_seen(Config, <<"1 stream_error timeout">>),
    hornbeam_test_server:await_seen(Config, <<"1 invoke_cancel">>),
    ok = hornbeam:stop().

%% After a crash of the registry its handlers are there again, and so is the workers' load.
registry_comes_back(Config) ->
    _ = start(Config, ["never"]),
    ok = hornbeam_hooks:register("f", fun(_) -> 1 end),
    Registry = whereis(hornbeam_hook_registry),
    exit(Registry, kill),
    hornbeam_test_wait:until(fun() -> {ok, 1} =:= hornbeam_hooks:execute("f", undefined, []) end),
    exit(hornbeam_test_server:worker_pid(default, 1), kill),
    hornbeam_test_wait:until(fun() ->
        ets:match(hornbeam_hook_registry, {{load, '$1'}, '_'}) =:= []
    end),
    ok = hornbeam:stop().

%% Who answered for a path still does, workers and handlers, and can still stop doing so.
scope_crashes(Config) ->
    _ = start(Config, ["echo"]),
    ok = hornbeam_hooks:register("f", fun(_) -> 1 end),
    Scope = whereis(hornbeam_hooks),
    exit(Scope, kill),
    hornbeam_test_wait:until(fun() -> not lists:member(whereis(hornbeam_hooks), [Scope, undefined]) end),
    hornbeam_test_wait:until(fun() -> {ok, 1} =:= hornbeam_hooks:execute("f", undefined, []) end),
    hornbeam_test_wait:until(fun() ->
        {ok, {1, [2], #{}}} =:= hornbeam_hooks:execute("echo", undefined, [2])
    end),
    ?assert(hornbeam_hooks:unregister("f")),
    ?assertMatch({error, {service_not_found, _}}, hornbeam_hooks:execute("f", undefined, [])),
    ok = hornbeam:stop(),
    ?assertMatch({error, {service_not_found, _}}, hornbeam_hooks:execute("echo", undefined, [2])).

%% Handlers and workers of another node; of the own one where it has them.
across_nodes(Config) ->
    Cluster = {_, [One, Two]} = hornbeam_test_cluster:start(2),
    Node = hornbeam_test_cluster:node_of(Two),
    [{module, _} = hornbeam_test_cluster:call(Peer, code, ensure_loaded, [?MODULE])
     || Peer <- [One, Two]],
    ok = hornbeam_test_cluster:call(Two, hornbeam_hooks, register, ["where", fun ?MODULE:handle/1]),
    Execute = fun(Path) ->
        hornbeam_test_cluster:call(One, hornbeam_hooks, execute, [Path, <<"where">>, []])
    end,
    hornbeam_test_wait:until(fun() -> Execute("where") =:= {ok, Node} end),
    ok = hornbeam_test_cluster:call(One, hornbeam_hooks, register, ["where", ?MODULE]),
    ?assertEqual({ok, hornbeam_test_cluster:node_of(One)}, Execute("where")),
    Port = hornbeam_test_cluster:call(Two, hornbeam_test_services, start, [Config]),
    [<<"ok True">> = hornbeam_test_services:call(Port, "register_hook", ["(b'", Path, "',)"])
     || Path <- ["echo", "count", "never"]],
    hornbeam_test_wait:until(fun() -> Execute("echo") =:= {ok, {1, [], #{}}} end),
    ?assertEqual({lists:seq(0, 49), done},
                 hornbeam_test_cluster:call(One, ?MODULE, take, ["count", [50]])),
    %% The node goes while a call is under way.
    {Pid, Monitor} = spawn_monitor(fun() ->
        exit({answer, hornbeam_test_cluster:call(One, hornbeam_hooks, execute,
                                                 ["never", undefined, [], #{timeout => infinity}])})
    end),
    hornbeam_test_server:await_seen(Config, <<"1 never">>),
    peer:stop(element(1, Two)),
    receive
        {'DOWN', Monitor, process, Pid, Reason} ->
            ?assertEqual({answer, {error, {service_down, #{path => <<"never">>}}}}, Reason)
    end,
    hornbeam_test_cluster:stop(Cluster).

%%% Handlers

handle(#{method := <<"where">>}) -> node();
handle(#{args := Args}) -> {handled, Args}.

count(#{method := <<"list">>, args := [Count]}) ->
    lists:seq(1, Count);
count(#{method := <<"emit">>, args := [Count], emit := Emit}) ->
    lists:foreach(Emit, lists:seq(1, Count)).

%% Tells who runs it, and never ends.
register_waiting() ->
    ok = hornbeam_hooks:register("waits", fun(#{args := [Observer]}) ->
        Observer ! {runs, self()},
        receive never -> ok end
    end).

wait_in_stream(Emit) ->
    ?MODULE ! {runs, self()},
    Emit(1),
    wait_in_stream(Emit).

%%% Internal

start(Config, Paths) ->
    start(Config, Paths, #{}).

%% A server whose workers have all registered those paths. Requests that come one by one go to the
%% workers by turns.
start(Config, Paths, Options) ->
    Port = hornbeam_test_services:start(Config, Options),
    Workers = maps:get(workers, Options, 1),
    [begin
        <<"ok True">> = hornbeam_test_services:call(Port, "register_hook", ["(b'", Path, "',)"]),
        %% The answer may be here before the worker's place is free.
        hornbeam_test_wait:until(fun() -> lists:sum(hornbeam_test_server:in_flight()) =:= 0 end)
     end || Path <- Paths, _ <- lists:seq(1, Workers)],
    [?assertEqual(Workers, length(pg:get_members(hornbeam_hooks, list_to_binary(Path))))
     || Path <- Paths],
    Port.

take(Path, Args) ->
    {ok, Stream} = hornbeam_hooks:stream(Path, undefined, Args),
    read(Stream).

read(Stream) ->
    read(Stream, []).

read(Stream, Items) ->
    case hornbeam_hooks:next(Stream) of
        {ok, Item} -> read(Stream, [Item | Items]);
        End -> {lists:reverse(Items), End}
    end.

in_flight() ->
    lists:sum([Count || [Count] <- ets:match(hornbeam_hook_registry, {{load, '_'}, '$1'})]).

items(Config) ->
    [Line || Line <- hornbeam_test_server:seen(Config),
             binary:match(Line, <<" item ">>) =/= nomatch].

await_runs() ->
    {ok, Runner} = hornbeam_test_services:for_message(fun({runs, Pid}) -> Pid end),
    Runner.

await_dead(Pid) ->
    hornbeam_test_wait:until(fun() -> not is_process_alive(Pid) end).
