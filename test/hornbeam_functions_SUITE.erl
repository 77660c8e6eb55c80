%% SPDX-License-Identifier: Apache-2.0
%% Registered functions, from Erlang and as a worker calls them.
-module(hornbeam_functions_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([names_are_text/1]).
-export([registered_again/1]).
-export([unregistered/1]).
-export([bad_registrations/1]).
-export([near_names/1]).
-export([result_and_arguments/1]).
-export([module_functions/1]).
-export([crashes_are_told/1]).
-export([killed_at_the_deadline/1]).
-export([deadline_of_zero/1]).
-export([killed_with_its_owner/1]).
-export([killed_from_outside/1]).
-export([calls_run_side_by_side/1]).
-export([nothing_is_left_in_the_mailbox/1]).
-export([casts/1]).
-export([failed_casts_are_logged/1]).
-export([services/1]).
-export([from_a_worker/1]).
-export([too_many_of_a_worker/1]).

all() ->
    [
        names_are_text,
        registered_again,
        unregistered,
        bad_registrations,
        near_names,
        result_and_arguments,
        module_functions,
        crashes_are_told,
        killed_at_the_deadline,
        deadline_of_zero,
        killed_with_its_owner,
        killed_from_outside,
        calls_run_side_by_side,
        nothing_is_left_in_the_mailbox,
        casts,
        failed_casts_are_logged,
        services,
        from_a_worker,
        too_many_of_a_worker
    ].

-define(LONG_MS, 10000).
%% As in hornbeam_worker_calls.
-define(MAX_TASKS, 10000).

init_per_testcase(_, Config) ->
    _ = application:stop(hornbeam),
    hornbeam_test_server:new_folder(Config).

end_per_testcase(_, _) ->
    _ = application:stop(hornbeam),
    ok.

%% The façade starts the application; an atom, a string and a binary are one name.
names_are_text(_) ->
    ok = hornbeam:register_function(one, fun() -> 1 end),
    ok = hornbeam:register_function("two", fun() -> 2 end),
    ok = hornbeam:register_function(<<"größe"/utf8>>, fun() -> 3 end),
    ?assertEqual([<<"größe"/utf8>>, <<"one">>, <<"two">>], hornbeam_functions:list()),
    ?assertEqual({ok, 1}, hornbeam_functions:call("one", [], ?LONG_MS)),
    ?assertEqual({ok, 2}, hornbeam_functions:call(two, [], ?LONG_MS)),
    ?assertEqual({ok, 3}, hornbeam_functions:call("größe", [], ?LONG_MS)).

registered_again(_) ->
    ok = hornbeam:register_function(f, fun() -> old end),
    ok = hornbeam:register_function("f", fun() -> new end),
    ?assertEqual({ok, new}, hornbeam_functions:call(f, [], ?LONG_MS)),
    ?assertEqual([<<"f">>], hornbeam_functions:list()).

unregistered(_) ->
    ok = hornbeam:register_function(f, fun() -> 1 end),
    ?assert(hornbeam:unregister_function("f")),
    ?assertNot(hornbeam:unregister_function(f)),
    ?assertMatch({error, {function_not_found, _}}, hornbeam_functions:call(f, [], ?LONG_MS)).

bad_registrations(_) ->
    ok = hornbeam:register_function(f, fun() -> 1 end),
    ?assertError(function_clause, hornbeam_functions:register(f, not_a_fun)),
    ?assertError(function_clause, hornbeam_functions:register(f, "lists", reverse)),
    ?assertError(_, hornbeam_functions:register({f}, fun() -> 1 end)),
    ?assertEqual([<<"f">>], hornbeam_functions:list()).

%% What was meant, the nearest first; what is far is not told.
near_names(_) ->
    [ok = hornbeam:register_function(Name, fun() -> 1 end)
     || Name <- [add, adder, subtract, "ad", multiply]],
    {error, {function_not_found, Facts}} = hornbeam_functions:call(addd, [], ?LONG_MS),
    ?assertEqual(#{name => <<"addd">>, near => [<<"add">>, <<"ad">>, <<"adder">>]}, Facts),
    ?assertMatch({error, {function_not_found, #{near := []}}},
                 hornbeam_functions:call(divide, [], ?LONG_MS)).

result_and_arguments(_) ->
    ok = hornbeam:register_function(args, fun(A, B) -> {B, A} end),
    ?assertEqual({ok, {[], 1}}, hornbeam_functions:call(args, [1, []], ?LONG_MS)),
    ?assertEqual({ok, {<<"b">>, #{}}}, hornbeam_functions:call(args, [#{}, <<"b">>], infinity)).

%% Any arity of the module's function.
module_functions(_) ->
    ok = hornbeam:register_function(seq, lists, seq),
    ?assertEqual({ok, [1, 2]}, hornbeam_functions:call(seq, [1, 2], ?LONG_MS)),
    ?assertEqual({ok, [1, 3]}, hornbeam_functions:call(seq, [1, 4, 2], ?LONG_MS)),
    ?assertMatch({error, {remote_error, #{reason := <<"undef">>}}},
                 hornbeam_functions:call(seq, [], ?LONG_MS)).

%% Class, reason and stack, as text; the stack begins where it happened and ends at the function.
crashes_are_told(_) ->
    [begin
         ok = hornbeam:register_function(f, Fun),
         {error, {remote_error, Facts}} = hornbeam_functions:call(f, [], ?LONG_MS),
         ?assertMatch(#{class := Class, reason := Reason}, Facts)
     end || {Class, Reason, Fun} <- [
         {<<"error">>, <<"badarith">>, fun() -> 1 / number("0") end},
         {<<"throw">>, <<"{oops,1}">>, fun() -> throw({oops, 1}) end},
         {<<"exit">>, <<"normal">>, fun() -> exit(normal) end},
         {<<"error">>, <<"{badmatch,1}">>, fun() -> 2 = number("1") end}
     ]],
    ok = hornbeam:register_function(f, fun() -> [atom_to_list(number("1"))] end),
    {error, {remote_error, #{stack := Stack}}} = hornbeam_functions:call(f, [], ?LONG_MS),
    [First, Second | _] = binary:split(Stack, <<"\n">>, [global]),
    ?assertMatch(<<"erlang:atom_to_list/1", _/binary>>, First),
    ?assertMatch({_, _}, binary:match(Second, <<"hornbeam_functions_SUITE.erl:">>)),
    ?assertEqual(nomatch, binary:match(Stack, <<"hornbeam_task">>)),
    ok = hornbeam:register_function(f, fun(_) -> 1 end),
    {error, {remote_error, #{reason := Badarity}}} = hornbeam_functions:call(f, [], ?LONG_MS),
    ?assertMatch({0, _}, binary:match(Badarity, <<"{badarity">>)),
    ok = hornbeam:register_function(f, fun() -> error(lists:seq(1, 100000)) end),
    {error, {remote_error, #{reason := Long}}} = hornbeam_functions:call(f, [], ?LONG_MS),
    ?assert(byte_size(Long) < 10000).

%% The process that runs it is gone when the answer comes, or at once after.
killed_at_the_deadline(_) ->
    register_waiting(),
    ?assertEqual({error, {timeout, #{timeout_ms => 50}}},
                 hornbeam_functions:call(waits, [self()], 50)),
    {ok, Runner} = hornbeam_test_services:for_message(fun({runs, Pid}) -> Pid end),
    hornbeam_test_wait:until(fun() -> not is_process_alive(Runner) end).

deadline_of_zero(_) ->
    register_waiting(),
    ?assertEqual({error, {timeout, #{timeout_ms => 0}}},
                 hornbeam_functions:call(waits, [self()], 0)).

killed_with_its_owner(_) ->
    register_waiting(),
    Self = self(),
    Caller = spawn(fun() -> hornbeam_functions:call(waits, [Self], infinity) end),
    {ok, Runner} = hornbeam_test_services:for_message(fun({runs, Pid}) -> Pid end),
    ?assert(is_process_alive(Runner)),
    exit(Caller, kill),
    hornbeam_test_wait:until(fun() -> not is_process_alive(Runner) end).

killed_from_outside(_) ->
    ok = hornbeam:register_function(f, fun() -> exit(self(), kill) end),
    ?assertMatch({error, {remote_error, #{class := <<"exit">>, reason := <<"killed">>}}},
                 hornbeam_functions:call(f, [], ?LONG_MS)).

%% Each waits for the next one: were they run one by one, none would come back.
calls_run_side_by_side(_) ->
    Self = self(),
    ok = hornbeam:register_function(meet, fun(N) ->
        Self ! {met, N, self()},
        receive go -> N end
    end),
    Callers = [spawn_monitor(fun() -> {ok, N} = hornbeam_functions:call(meet, [N], ?LONG_MS) end)
               || N <- lists:seq(1, 50)],
    Runners = [receive {met, N, Pid} -> Pid end || N <- lists:seq(1, 50)],
    ?assertEqual(50, length(lists:usort(Runners))),
    [Pid ! go || Pid <- Runners],
    [receive {'DOWN', Monitor, _, _, Reason} -> ?assertEqual(normal, Reason) end
     || {_, Monitor} <- Callers].

nothing_is_left_in_the_mailbox(_) ->
    register_waiting(),
    ok = hornbeam:register_function(one, fun() -> 1 end),
    [{ok, 1} = hornbeam_functions:call(one, [], ?LONG_MS) || _ <- lists:seq(1, 100)],
    [{ok, 1} = hornbeam_functions:call(one, [], infinity) || _ <- lists:seq(1, 100)],
    [_ = hornbeam_functions:call(one, [], 0) || _ <- lists:seq(1, 100)],
    ?assertEqual({messages, []}, process_info(self(), messages)).

casts(_) ->
    Self = self(),
    ok = hornbeam:register_function(tell, fun(What) -> Self ! {told, What} end),
    {task, Task, infinity} = hornbeam_services:cast(cast, {<<"tell">>, hornbeam_blob:encode([x])}),
    true = is_pid(hornbeam_task:cast(Task, #{})),
    ?assertEqual({ok, x}, hornbeam_test_services:for_message(fun({told, What}) -> What end)).

failed_casts_are_logged(_) ->
    ok = hornbeam:register_function(f, fun() -> error(oops) end),
    hornbeam_test_log:start(),
    {task, Task, infinity} = hornbeam_services:cast(cast, {<<"f">>, hornbeam_blob:encode([])}),
    true = is_pid(hornbeam_task:cast(Task, #{function => cast})),
    hornbeam_test_wait:until(fun() -> hornbeam_test_log:reports(cast_failed) =/= [] end),
    hornbeam_test_log:stop().

%% As a worker calls: blobs in, a blob out; bad arguments are told before anything runs.
services(_) ->
    ok = hornbeam:register_function(first, fun(A, _) -> A end),
    Args = hornbeam_blob:encode([<<"a">>, 2]),
    {task, Task, 5000} = hornbeam_services:call(call, {<<"first">>, Args, 5000}),
    ?assertEqual({ok, hornbeam_blob:encode(<<"a">>)}, Task()),
    ?assertMatch({error, {function_not_found, #{near := [<<"first">>]}}},
                 hornbeam_services:call(call, {<<"firts">>, Args, 5000})),
    [begin
         {task, Bad, infinity} = hornbeam_services:call(call, {<<"first">>, Blob, infinity}),
         ?assertMatch({error, {Error, _}}, Bad())
     end || {Error, Blob} <- [{bad_arguments, hornbeam_blob:encode({1})},
                              {bad_arguments, hornbeam_blob:encode([1 | 2])},
                              {undecodable, <<131, 108>>},
                              {unknown_atom, <<131, 119, 12, "hb_no_such_", "q">>}]],
    [?assertMatch({error, {unknown_function, _}}, hornbeam_services:call(call, Wrong))
     || Wrong <- [{first, Args, 1}, {<<"first">>, [], 1}, {<<"first">>, Args, -1},
                  {<<"first">>, Args, 1 bsl 32}, {<<"first">>, Args, 1.0}]].

%% Over the port: the answer of a slow function comes after that of one that was called later.
from_a_worker(Config) ->
    Self = self(),
    ok = hornbeam:register_function(slow, fun() ->
        Self ! {runs, self()},
        receive go -> <<"slow">> end
    end),
    ok = hornbeam:register_function(quick, fun() -> <<"quick">> end),
    Port = hornbeam_test_services:start(Config),
    Call = fun(Args) -> hornbeam_test_services:call(Port, "call", Args) end,
    {Pid, Monitor} = spawn_monitor(fun() -> exit(Call("(b'slow', blob([]), 5000)")) end),
    {ok, Runner} = hornbeam_test_services:for_message(fun({runs, Runs}) -> Runs end),
    ?assertEqual(<<"ok quick">>, Call("(b'quick', blob([]), infinity)")),
    Runner ! go,
    receive {'DOWN', Monitor, process, Pid, Answer} -> ?assertEqual(<<"ok slow">>, Answer) end,
    ?assertEqual(<<"error timeout">>, Call("(b'slow', blob([]), 20)")),
    ?assertEqual(<<"error function_not_found">>, Call("(b'fast', blob([]), 20)")),
    {ok, Second} = hornbeam_test_services:for_message(fun({runs, Runs}) -> Runs end),
    hornbeam_test_wait:until(fun() -> not is_process_alive(Second) end),
    ?assertEqual(<<"cast">>, hornbeam_test_services:cast(Port, "cast", "(b'slow', blob([]))")),
    {ok, Third} = hornbeam_test_services:for_message(fun({runs, Runs}) -> Runs end),
    %% What a worker called ends with it, what it has cast does not.
    _ = spawn(fun() -> Call("(b'slow', blob([]), infinity)") end),
    {ok, Fourth} = hornbeam_test_services:for_message(fun({runs, Runs}) -> Runs end),
    exit(hornbeam_test_server:worker_pid(default, 1), kill),
    hornbeam_test_wait:until(fun() -> not is_process_alive(Fourth) end),
    ?assert(is_process_alive(Third)),
    exit(Third, kill),
    ok = hornbeam:stop().

%% What it asks for without waiting does not fill the node; what ends makes room, however it ends.
too_many_of_a_worker(Config) ->
    ok = hornbeam:register_function(waits, fun() -> receive never -> ok end end),
    hornbeam_test_log:start(),
    Port = hornbeam_test_services:start(Config),
    Worker = hornbeam_test_server:worker_pid(default, 1),
    Args = hornbeam_blob:encode([]),
    Before = erlang:system_info(process_count),
    hornbeam_test_services:said(Worker, [{cast, cast, {<<"waits">>, Args}}]),
    hornbeam_test_services:said(Worker, [{call, 1000000 + N, call, {<<"waits">>, Args, infinity}}
                  || N <- lists:seq(2, ?MAX_TASKS)]),
    hornbeam_test_services:said(Worker, [{call, 2000000 + N, call, {<<"waits">>, Args, infinity}} || N <- lists:seq(1, 100)]
                 ++ [{cast, cast, {<<"waits">>, Args}}]),
    Call = fun(Name, Given) -> hornbeam_test_services:call(Port, Name, Given) end,
    ?assertEqual(<<"error too_many_calls">>, Call("call", "(b'waits', blob([]), 20)")),
    ?assert(erlang:system_info(process_count) - Before < 2 * ?MAX_TASKS + 100),
    ?assertMatch([#{error := too_many_calls, facts := #{limit := ?MAX_TASKS}}],
                 hornbeam_test_log:reports(cast_failed)),
    ?assertEqual(<<"ok nonode@nohost">>, Call("node", "()")),
    %% The one that was cast.
    [Cast] = [Pid || Pid <- processes(), is_waiting_cast(Pid)],
    exit(Cast, kill),
    hornbeam_test_wait:until(fun() ->
        Call("call", "(b'waits', blob([]), 20)") =:= <<"error timeout">>
    end),
    exit(Worker, kill),
    hornbeam_test_wait:until(fun() -> erlang:system_info(process_count) - Before < 100 end),
    ok = hornbeam:stop(),
    hornbeam_test_log:stop().

%%% Internal

%% Of hornbeam_task:cast/2: it runs in the process itself, without a guard that monitors it.
is_waiting_cast(Pid) ->
    case process_info(Pid, [current_stacktrace, initial_call]) of
        [{current_stacktrace, Stack}, _] ->
            lists:any(fun(Frame) -> element(2, Frame) =:= '-cast/2-fun-0-' end, Stack);
        undefined ->
            false
    end.

%% Out of the compiler's sight, which would see the crashes coming.
number(Text) -> apply(erlang, list_to_integer, [Text]).

%% A function that tells who runs it, and waits for ever.
register_waiting() ->
    ok = hornbeam:register_function(waits, fun(Observer) ->
        Observer ! {runs, self()},
        receive never -> ok end
    end).
